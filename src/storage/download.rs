//! Downloads over HTTP into a file that a later call, or another process, goes on with.

use super::hash;
use crate::error::{Error, Result};
use crate::observer::Observer;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::ResponseExt;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};

/// Time for a connection, and for each piece of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes to read at a time.
const CHUNK: usize = 1 << 16;

/// Largest text.
const MAX_TEXT: u64 = 16 << 20;

/// Connections that may break off during one download.
const TRIES: usize = 5;

/// An HTTP client.
pub struct Client(ureq::Agent);

/// A URL and the headers to send. A bearer token is sent to the same host only.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The URL.
    pub url: String,
    /// Accepted types of content; empty for all.
    pub accept: &'static str,
    /// Bearer token.
    pub token: Option<String>,
}

/// An answer: a value, or the status of a server that has or gives none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// The value.
    Found(T),
    /// 401, 403, 404 or 410.
    Refused(u16),
}

/// A text, and the URL that redirects led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// The URL.
    pub url: String,
}

/// End of a connection.
enum End {
    /// The file is complete, or the server refused it.
    Answered(Answer<()>),
    /// The connection broke off, with the reason.
    Broken(String),
    /// The part of the file is of no use.
    Useless,
}

impl Default for Client {
    fn default() -> Client {
        // The system's certificates, among them those of the user's own proxy.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("lat-wgpu/", env!("CARGO_PKG_VERSION")));
        Client(config.build().new_agent())
    }
}

impl Client {
    /// Reads a small text.
    ///
    /// # Errors
    /// [`Error::Network`] if the server can't be reached or fails.
    pub fn text(&self, request: &Request) -> Result<Answer<Text>> {
        let mut response = self.get(request, &[])?;
        if let Some(refused) = refused(response.status()) {
            return Ok(Answer::Refused(refused));
        }
        if response.status() != StatusCode::OK {
            return Err(unexpected(request, response.status()));
        }
        let url = response.get_uri().to_string();
        let body = response.body_mut().with_config().limit(MAX_TEXT).lossy_utf8(true);
        let text = body.read_to_string().map_err(|error| unreachable(request, &error))?;
        Ok(Answer::Found(Text { text, url }))
    }

    /// Downloads a file to `part`. Goes on with a `part` of an earlier call if the server has the same file still, or if
    /// `sha256` shows the difference. One process at a time may write `part`.
    ///
    /// # Errors
    /// [`Error::Network`] if the server can't be reached or fails; [`Error::Data`] if the file has another SHA-256: it is
    /// removed then; [`Error::Io`]; [`Error::Interrupted`].
    pub fn file(
        &self,
        request: &Request,
        part: &Path,
        sha256: Option<&str>,
        name: &str,
        observer: &dyn Observer,
    ) -> Result<Answer<()>> {
        for last in (0..TRIES).rev() {
            match self.connect(request, part, sha256.is_some(), name, observer)? {
                End::Answered(Answer::Found(())) => break,
                End::Answered(refused) => return Ok(refused),
                End::Useless => remove(part)?,
                End::Broken(reason) if last == 0 => {
                    let error = Error::Network(format!("the download of {name} broke off: {reason}"));
                    return Err(error.hinted("the same command goes on where it stopped"));
                }
                End::Broken(reason) => {
                    observer.note(&format!("the download of {name} broke off ({reason}): connecting again"));
                }
            }
            if last == 0 {
                return Err(Error::Network(format!("{} answers differently each time", shown(&request.url))));
            }
        }
        if let Some(wanted) = sha256 {
            let found = hash::of_file(part)?;
            if found != wanted {
                remove(part)?;
                return Err(Error::Data(format!(
                    "{name} is not the expected file, and was removed: its SHA-256 is {found}, expected {wanted}"
                ))
                .hinted("fetch it again; if it differs again, the server has another file"));
            }
        }
        let _ = std::fs::remove_file(tag_of(part));
        Ok(Answer::Found(()))
    }

    /// Sends one request for a file, or for the rest of it, and stores the answer.
    fn connect(
        &self,
        request: &Request,
        part: &Path,
        is_pinned: bool,
        name: &str,
        observer: &dyn Observer,
    ) -> Result<End> {
        let tag = std::fs::read_to_string(tag_of(part)).ok();
        let stored = std::fs::metadata(part).map_or(0, |found| found.len());
        let start = if tag.is_some() || is_pinned { stored } else { 0 };
        let mut headers = Vec::new();
        if start > 0 {
            headers.push((header::RANGE, format!("bytes={start}-")));
            headers.extend(tag.map(|tag| (header::IF_RANGE, tag)));
        }
        let mut response = self.get(request, &headers)?;
        if let Some(refused) = refused(response.status()) {
            return Ok(End::Answered(Answer::Refused(refused)));
        }
        let range = text_of(&response, header::CONTENT_RANGE).unwrap_or_default().to_string();
        let whole = range.rsplit('/').next().and_then(|whole| whole.parse::<u64>().ok());
        let length = text_of(&response, header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let (start, total) = match response.status() {
            StatusCode::OK => (0, length),
            StatusCode::PARTIAL_CONTENT if start > 0 && range.starts_with(&format!("bytes {start}-")) => {
                (start, whole.or(length.map(|length| start + length)))
            }
            // There is nothing after the last byte.
            StatusCode::RANGE_NOT_SATISFIABLE if start > 0 && whole == Some(start) => {
                return Ok(End::Answered(Answer::Found(())));
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                return Ok(End::Useless);
            }
            status => return Err(unexpected(request, status)),
        };
        if start == 0 {
            remove(part)?;
            // A weak tag doesn't promise the same bytes.
            if let Some(tag) = text_of(&response, header::ETAG).filter(|tag| tag.starts_with('"')) {
                std::fs::write(tag_of(part), tag).map_err(Error::io("write", tag_of(part)))?;
            }
        }
        let size =
            total.map_or("of unknown size".to_string(), |total| format!("{:.1} MB", total as f64 / 1e6));
        let from = if start > 0 { format!(" from {:.1} MB on", start as f64 / 1e6) } else { String::new() };
        observer.note(&format!("downloading {name}, {size}{from}"));

        let mut file =
            File::options().create(true).append(true).open(part).map_err(Error::io("open", part))?;
        let mut body = response.body_mut().as_reader();
        let (mut done, mut buffer) = (start, vec![0; CHUNK]);
        let stage = format!("{name}, MB");
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) if total.is_some_and(|total| done < total) => {
                    return Ok(End::Broken("the connection was closed".to_string()));
                }
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Ok(End::Broken(error.to_string())),
            };
            file.write_all(&buffer[..read]).map_err(Error::io("write", part))?;
            done += read as u64;
            if let Some(total) = total {
                observer.progress(&stage, megabytes(done.min(total)), megabytes(total));
            }
            observer.check("the same command goes on with the download")?;
        }
        if total.is_some_and(|total| done > total) {
            return Ok(End::Useless);
        }
        file.sync_all().map_err(Error::io("write", part))?;
        Ok(End::Answered(Answer::Found(())))
    }

    fn get(
        &self,
        request: &Request,
        headers: &[(header::HeaderName, String)],
    ) -> Result<Response<ureq::Body>> {
        let mut get = self.0.get(&request.url);
        if !request.accept.is_empty() {
            get = get.header(header::ACCEPT, request.accept);
        }
        if let Some(token) = &request.token {
            get = get.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            get = get.header(name, value);
        }
        get.call().map_err(|error| unreachable(request, &error))
    }
}

/// The file with the entity tag of a part.
fn tag_of(part: &Path) -> PathBuf {
    part.with_extension("etag")
}

/// Removes a part and its tag, if they exist.
fn remove(part: &Path) -> Result<()> {
    for path in [part, &tag_of(part)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Bytes in whole megabytes, rounded up.
fn megabytes(bytes: u64) -> usize {
    bytes.div_ceil(1_000_000) as usize
}

fn text_of(response: &Response<ureq::Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// The statuses that depend on the file and the user.
fn refused(status: StatusCode) -> Option<u16> {
    [401, 403, 404, 410].into_iter().find(|refused| *refused == status.as_u16())
}

/// A URL without user name and password, and without the query, which may hold a signature.
pub fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
        }
        None => url.to_string(),
    }
}

fn unexpected(request: &Request, status: StatusCode) -> Error {
    Error::Network(format!("{} answers {status}", shown(&request.url)))
}

fn unreachable(request: &Request, reason: &ureq::Error) -> Error {
    Error::Network(format!("cannot reach {}: {reason}", shown(&request.url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        for (url, wanted) in [
            ("https://user:word@host/simple/a?signature=b", "https://host/simple/a"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80"),
            ("https://host/a@b#c", "https://host/a@b"),
            ("host/a", "host/a"),
        ] {
            assert_eq!(shown(url), wanted);
        }
    }
}
