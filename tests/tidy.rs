//! The laws of the house, read off the files: layers, complete kernel stems, where printing and panics may stand.
//! ARCHITECTURE.md tells why; here they hold.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of the design, bottom first: a module imports from rows below its own.
const LAYERS: [&[&str]; 10] = [
    &["gpu"],
    &["error", "observer", "retry", "rng", "shape"],
    &["images", "storage", "figures"],
    &["kernels", "datasets", "report", "plot"],
    &["layers", "checkpoint", "embeddings", "cases"],
    &["model", "retrieval"],
    &["export", "train", "selftest"],
    &["tasks", "bench"],
    &["cli", "api"],
    &["main"],
];

/// What may be imported from a module's own row.
const SIDEWAYS: [(&str, &str); 8] = [
    ("images", "storage"),
    ("figures", "storage"),
    ("shape", "error"),
    ("rng", "error"),
    ("observer", "error"),
    ("retry", "error"),
    ("retry", "observer"),
    ("report", "plot"),
];

/// Modules of a lower row that may still not be imported: host memory knows no GPU, kernels no files.
const BARRED: [(&str, &[&str]); 11] = [
    ("rng", &["gpu"]),
    ("shape", &["gpu"]),
    ("observer", &["gpu"]),
    ("images", &["gpu"]),
    ("storage", &["gpu"]),
    ("figures", &["gpu"]),
    ("datasets", &["gpu"]),
    ("embeddings", &["gpu", "kernels"]),
    ("checkpoint", &["gpu", "kernels"]),
    ("report", &["gpu"]),
    ("kernels", &["images", "storage", "figures"]),
];

/// Beginnings of tensor names in weights files, which only `checkpoint` and `model` know.
const TENSOR_NAMES: [&str; 8] = [
    "blocks.",
    "cls_token",
    "pos_embed",
    "patch_embed.proj",
    "norm.weight",
    "norm_pre.",
    "heads.",
    "reg_token",
];

/// Folders that tools fill and nobody keeps.
const DOWNLOADS: [&str; 3] = ["/node_modules/", "/.venv/", "/__pycache__/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A path below the root, with `/`.
fn shown(path: &Path) -> String {
    let parts = path.strip_prefix(root()).unwrap_or(path).iter();
    parts.map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// All files below a folder of the repository, sorted; none if there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display())).path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn files_ending(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = files(&root().join(folder));
    found.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    found
}

/// What is kept in the repository, as text: build outputs, downloads and images left out.
fn texts() -> Vec<(String, String)> {
    let own = [
        "src",
        "shaders",
        "tests",
        "benches",
        "tools",
        "examples",
        "weights",
        ".ci",
        ".github",
        "docs",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Cargo.toml",
        ".gitignore",
        ".clippy.toml",
        "deny.toml",
        ".rustfmt.toml",
    ];
    let mut found = Vec::new();
    for name in own {
        let path = root().join(name);
        for file in if path.is_file() { vec![path] } else { files(&path) } {
            let name = shown(&file);
            // A lock file is Cargo's: it names the registry by itself.
            let made = [".safetensors", "/Cargo.lock"].iter().any(|ending| name.ends_with(ending));
            if made || DOWNLOADS.iter().any(|folder| name.contains(folder)) {
                continue;
            }
            let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            if let Ok(text) = String::from_utf8(bytes) {
                found.push((name, text));
            }
        }
    }
    found
}

/// A Rust source without what is only told or tested.
struct Source {
    /// Path below the root.
    path: String,
    /// First module below the crate's root: `gpu` of src/gpu/plan.rs and src/gpu.rs.
    module: String,
    /// The code: comments, the text of literals and the unit tests at the end left out.
    code: String,
    /// The text of string literals in the code.
    strings: Vec<String>,
}

/// The sources of the library and its program.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for file in files_ending("src", "rs") {
        let path = shown(&file);
        // Unit tests that are too long to stand in the file they test.
        if path.ends_with("/tests.rs") {
            continue;
        }
        let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
        let module = inside.split('/').next().unwrap_or_default().to_string();
        let (code, strings) = lex(without_tests(&read(&file)));
        found.push(Source { path, module, code, strings });
    }
    assert!(!found.is_empty(), "no sources under {}", root().display());
    found
}

/// What stands before the unit tests, which are the last item of a file.
fn without_tests(text: &str) -> &str {
    let at =
        text.match_indices("#[cfg(test)]\n").map(|(at, mark)| (at, text[at + mark.len()..].trim_start()));
    let tests = at.filter(|(_, rest)| {
        ["mod tests", "pub mod tests", "pub(crate) mod tests", "pub(super) mod tests"]
            .iter()
            .any(|head| rest.starts_with(head))
    });
    tests.map(|(at, _)| &text[..at]).last().unwrap_or(text)
}

/// Splits Rust text into code (comments gone, literals emptied) and the texts of its string literals.
fn lex(text: &str) -> (String, Vec<String>) {
    let mut code = String::new();
    let mut strings = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let raw = rest.strip_prefix('r').map(|tail| tail.len() - tail.trim_start_matches('#').len());
        let word_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, tail)| tail);
        } else if let Some(hashes) = raw
            && !word_before
            && rest[1 + hashes..].starts_with('"')
        {
            let tail = &rest[hashes + 2..];
            let (string, tail) = tail.split_once(&format!("\"{}", "#".repeat(hashes))).unwrap_or((tail, ""));
            strings.push(string.to_string());
            code.push_str("\"\"");
            rest = tail;
        } else if next == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let end = end.map_or(rest.len(), |end| end + 1);
            strings.push(rest[1..end].to_string());
            code.push_str("\"\"");
            rest = rest.get(end + 1..).unwrap_or("");
        } else if let Some(tail) = character(rest) {
            code.push_str("' '");
            rest = tail;
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    (code, strings)
}

/// What follows a character literal; `None` at anything else, lifetimes too.
fn character(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('\'')?;
    if let Some(escaped) = inside.strip_prefix('\\') {
        // The escaped character itself may be a quote.
        let skipped = escaped.chars().next()?.len_utf8();
        return escaped[skipped..].split_once('\'').map(|(_, tail)| tail);
    }
    inside[inside.chars().next()?.len_utf8()..].strip_prefix('\'')
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Places where `word` stands in code as a word of its own.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// First names of all paths that begin at the crate's root: `gpu` of `crate::gpu::Context`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["crate", "lat_wgpu"] {
        for at in words(code, start) {
            let Some(path) = code[at + start.len()..].strip_prefix("::") else { continue };
            match path.strip_prefix('{') {
                None => found.extend(first_word(path)),
                Some(group) => {
                    // Names at the group's own depth, one after each comma.
                    let (mut depth, mut name_is_next) = (0, true);
                    for (at, c) in group.char_indices() {
                        match c {
                            '{' => depth += 1,
                            '}' if depth == 0 => break,
                            '}' => depth -= 1,
                            ',' if depth == 0 => name_is_next = true,
                            c if is_word(c) && name_is_next => {
                                found.extend(first_word(&group[at..]));
                                name_is_next = false;
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
    }
    found
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| is_word(*c)).collect();
    (!word.is_empty()).then_some(word)
}

fn row(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Why a module may not import another, if it may not.
fn objection(from: &str, to: &str) -> Option<String> {
    if from == to || from == "lib" {
        return None;
    }
    // Its own macro, which Rust exports at the crate's root.
    if from == "gpu" && to != "entry_points" {
        return Some(format!("`gpu` must know nothing of the product, but imports `{to}`"));
    }
    if BARRED.iter().any(|(module, barred)| *module == from && barred.contains(&to)) {
        return Some(format!("`{from}` must not know `{to}`"));
    }
    // Macros and types at the crate's root are no layer.
    let to_row = row(to)?;
    let from_row = row(from)?;
    if to_row > from_row {
        return Some(format!("`{to}` stands above `{from}`: imports only go down"));
    }
    if to_row == from_row && !SIDEWAYS.contains(&(from, to)) {
        return Some(format!("`{to}` stands beside `{from}`: imports only go down"));
    }
    None
}

/// Fails with all messages at once.
fn none(law: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{law}\n{}", wrong.join("\n"));
}

/// Names of the kernel families: the files of src/kernels, without those in its folders, which are parts of one.
fn stems() -> Vec<String> {
    let mut stems: Vec<_> = files_ending("src/kernels", "rs")
        .iter()
        .filter(|path| path.parent().is_some_and(|folder| folder.ends_with("src/kernels")))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    stems.retain(|stem| stem != "mod");
    assert!(!stems.is_empty(), "src/kernels holds no stem");
    stems
}

/// Shaders with their names, helpers in shaders/common left out.
fn shaders() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in files_ending("shaders", "wgsl") {
        let name = shown(&path);
        let name = name.trim_start_matches("shaders/").trim_end_matches(".wgsl");
        if !name.contains('/') {
            found.push((name.to_string(), read(&path)));
        }
    }
    found
}

/// The comment that a WGSL file begins with, without its slashes.
fn header(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_stem_has_its_four_homes() {
    let mut wrong = Vec::new();
    for stem in stems() {
        for home in [
            format!("shaders/{stem}.wgsl"),
            format!("src/reference/{stem}.rs"),
            format!("src/cases/{stem}.rs"),
        ] {
            if !root().join(&home).is_file() {
                wrong.push(format!("{stem}: no {home}"));
            }
        }
    }
    none("A kernel is a stem with four homes; it lands whole.", wrong);
}

#[test]
fn every_home_is_lived_in() {
    let mut wrong = Vec::new();
    for (list, name) in [
        ("src/kernels/mod.rs", "mod STEM"),
        ("src/kernels/mod.rs", "STEM::variants"),
        ("src/reference/mod.rs", "mod STEM"),
        ("src/cases/mod.rs", "STEM"),
        ("tests/kernels.rs", "STEM"),
    ] {
        let code = lex(&fs::read_to_string(root().join(list)).unwrap_or_default()).0;
        for stem in stems() {
            let name = name.replace("STEM", &stem);
            if words(&code, &name).next().is_none() {
                wrong.push(format!("{list} doesn't list `{name}`"));
            }
        }
    }
    let listed = read(&root().join("tests/kernels.rs"));
    for path in files_ending("tests/kernels", "rs") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !listed.contains(&format!("#[path = \"kernels/{name}\"]")) {
            wrong.push(format!("tests/kernels.rs has no module of tests/kernels/{name}"));
        }
    }
    none("A file of a stem that no list names is dead text.", wrong);
}

#[test]
fn every_shader_belongs_to_a_stem() {
    let stems = stems();
    let mut wrong = Vec::new();
    let mut declared = String::new();
    for stem in &stems {
        declared.push_str(&read(&root().join(format!("src/kernels/{stem}.rs"))));
    }
    // How quads are stored is the launch's matter.
    declared.push_str(&read(&root().join("src/gpu/kernel.rs")));
    for (name, _) in shaders() {
        let owner = stems.iter().find(|stem| name == **stem || name.starts_with(&format!("{stem}_")));
        let text = owner.map(|stem| read(&root().join(format!("src/kernels/{stem}.rs"))));
        if !text.is_some_and(|text| text.contains(&format!("shaders/{name}.wgsl\""))) {
            wrong.push(format!("shaders/{name}.wgsl: no stem's file in src/kernels includes it"));
        }
    }
    for path in files_ending("shaders/common", "wgsl") {
        if !declared.contains(&format!("{}\"", shown(&path))) {
            wrong.push(format!("{}: no kernel has it as a helper", shown(&path)));
        }
    }
    none(
        "A shader S.wgsl or S_*.wgsl is included by src/kernels/S.rs, a helper by some kernel or the engine.",
        wrong,
    );
}

#[test]
fn every_shader_has_its_header() {
    let stems = stems();
    let mut wrong = Vec::new();
    for (name, text) in shaders() {
        let header = header(&text);
        let purpose = header.lines().next().unwrap_or_default().trim();
        if purpose.len() < 20 {
            wrong.push(format!("{name}.wgsl: the first line doesn't say what it is for"));
        }
        // A second family of a stem refers to the first for what they share.
        let first = stems.iter().find(|stem| name.starts_with(&format!("{stem}_")));
        let refers = first.is_some_and(|stem| header.contains(&format!("{stem}.wgsl")));
        let shared = [
            (" = ", "formula"),
            (" read", "`read` buffer"),
            (" written", "`written` buffer"),
            ("Source:", "`Source:`"),
        ];
        for (mark, what) in shared {
            if !refers && !header.contains(mark) {
                wrong.push(format!("{name}.wgsl: the header has no {what}"));
            }
        }
        if !["workgroup", "invocation"].iter().any(|owner| header.contains(owner)) {
            wrong.push(format!("{name}.wgsl: the header doesn't say what a workgroup or invocation owns"));
        }
        if !header.contains("Limits:") {
            wrong.push(format!("{name}.wgsl: the header has no `Limits:`"));
        }
    }
    for path in files_ending("shaders/common", "wgsl") {
        if !header(&read(&path)).trim_start().starts_with("Helper:") {
            wrong.push(format!("{}: the header doesn't begin with `Helper:`", shown(&path)));
        }
    }
    none(
        "A shader begins with purpose, formula, buffers, owner, source and limits (shaders/README.md).",
        wrong,
    );
}

#[test]
fn imports_only_go_down() {
    let mut wrong = Vec::new();
    for source in sources() {
        for to in imports(&source.code) {
            if let Some(objection) = objection(&source.module, &to) {
                wrong.push(format!("{}: {objection}", source.path));
            }
        }
        // `super` could climb past what is read here.
        let depth = source.path.matches('/').count() + usize::from(!source.path.ends_with("/mod.rs"));
        if source.code.contains(&"super::".repeat(depth - 1))
            && source.module != "lib"
            && source.module != "main"
        {
            wrong.push(format!("{}: reaches the crate's root by `super`: write `crate`", source.path));
        }
    }
    none("Rows of ARCHITECTURE.md: imports only go down.", wrong);
}

#[test]
fn every_module_has_a_layer() {
    let known = ["lib", "reference"];
    let strangers: BTreeSet<_> = sources()
        .into_iter()
        .map(|source| source.module)
        .filter(|module| row(module).is_none() && !known.contains(&module.as_str()))
        .collect();
    assert!(strangers.is_empty(), "tests/tidy.rs knows no layer for {strangers:?}");
}

#[test]
fn only_the_engine_names_wgpu() {
    let mut wrong = Vec::new();
    for source in sources() {
        for name in ["wgpu", "wgpu_types", "wgpu_core", "wgpu_hal", "naga"] {
            if source.module != "gpu" && words(&source.code, name).next().is_some() {
                wrong.push(format!("{}: names `{name}`", source.path));
            }
        }
    }
    none("src/gpu is the only folder that names wgpu.", wrong);
}

#[test]
fn the_reference_stands_apart() {
    let mut wrong = Vec::new();
    for source in sources() {
        let imports = imports(&source.code);
        for (name, users) in [
            ("reference", &["reference", "cases"][..]),
            // Of the tasks, tuning fills its operands as benches do.
            ("cases", &["cases", "selftest", "bench", "tasks"]),
        ] {
            if imports.contains(name) && !users.contains(&source.module.as_str()) {
                wrong.push(format!("{}: imports `{name}`", source.path));
            }
        }
        if source.module == "reference" {
            let strange =
                imports.iter().filter(|name| !["reference", "shape", "rng"].contains(&name.as_str()));
            wrong.extend(strange.map(|name| format!("{}: imports `{name}`", source.path)));
        }
    }
    none(
        "The reference is plain loops over std; of the program `cases` alone imports it, and those `selftest` and `bench`.",
        wrong,
    );
}

#[test]
fn layers_know_no_tensor_names() {
    let mut wrong = Vec::new();
    for source in
        sources().into_iter().filter(|source| ["gpu", "kernels", "layers"].contains(&source.module.as_str()))
    {
        for string in &source.strings {
            if TENSOR_NAMES.iter().any(|name| string.contains(name)) {
                wrong.push(format!("{}: \"{string}\"", source.path));
            }
        }
    }
    none("Names of tensors in weights files stand in `checkpoint` and `model` alone.", wrong);
}

#[test]
fn no_path_of_a_machine() {
    // In pieces, or this file would be the first to break its law.
    let anywhere = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let sources = [concat!("/tm", "p/"), concat!("C:", "\\")];
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        let of_source = if path.starts_with("src/") { &sources[..] } else { &[] };
        for place in anywhere.iter().chain(of_source) {
            if text.contains(place) {
                wrong.push(format!("{path}: {place}"));
            }
        }
    }
    none("No file names a place on somebody's machine.", wrong);
}

#[test]
fn no_registry_host() {
    let hosts = [
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("python", "hosted.org"),
        concat!("npm", "js.org"),
        concat!("npm", "js.com"),
        concat!("rust-lang", ".org"),
    ];
    let mut wrong = Vec::new();
    // The one file that may ask an index by itself.
    for (path, text) in texts().into_iter().filter(|(path, _)| path != "tools/fetch_weights.py") {
        for host in hosts {
            if text.contains(host) {
                wrong.push(format!("{path}: {host}"));
            }
        }
    }
    none("Where packages come from is the user's configuration.", wrong);
}

/// Where the compiler is told to trust: file and number of `unsafe` words in its code.
const UNSAFE: [(&str, usize); 7] = [
    ("src/gpu/adapter.rs", 2),
    ("src/gpu/cache.rs", 1),
    ("src/gpu/compilation.rs", 1),
    ("src/gpu/context.rs", 1),
    ("src/main.rs", 1),
    ("tools/fuzz/src/memory.rs", 9),
    ("tools/isa_report/src/device.rs", 11),
];

#[test]
fn every_unsafe_is_counted_and_proved() {
    let mut wrong = Vec::new();
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "tools"] {
        for file in files_ending(folder, "rs") {
            let (path, text) = (shown(&file), read(&file));
            let count = words(&lex(&text).0, "unsafe").count();
            if count == 0 {
                continue;
            }
            found.push((path.clone(), count));
            // Line by line: comments stand there still. What a trait declares unsafe is proved where its trait is implemented.
            let lines: Vec<&str> = text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                let code = lex(line).0;
                let opens = ["unsafe {", "unsafe impl"].iter().any(|mark| code.contains(mark));
                let is_proved =
                    lines[..number].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
                if opens && !is_proved.clone().any(|line| line.contains("SAFETY: ")) {
                    wrong.push(format!("{path}:{}: no `// SAFETY:` above it", number + 1));
                }
            }
        }
    }
    let wanted = UNSAFE.map(|(path, count)| (path.to_string(), count));
    if found != wanted {
        wrong.push(format!("found {found:?}, counted {wanted:?}"));
    }
    none("Every `unsafe` is counted here, and its proof stands above it.", wrong);
}

// The laws above are only as good as their reader.

#[test]
fn the_lexer_tells_code_from_text() {
    let text = "let a = \"// no \\\" comment\"; // use crate::gpu;\nlet b = 'x'; let c = '\\''; fn d<'e>() {}\n\
                let f = r#\"raw \"text\"\"#; /* gone */ let var\" = 1;";
    let (code, strings) = lex(&text.replace("var\"", "var"));
    assert_eq!(strings, ["// no \\\" comment", "raw \"text\""]);
    assert!(!code.contains("crate") && !code.contains("gone"), "{code}");
    assert!(code.contains("fn d<'e>() {}") && code.contains("let var = 1;"), "{code}");
}

#[test]
fn the_reader_finds_imports() {
    let code = "use crate::gpu::{Context, Plan}; use crate::{error::{Error, Result}, shape, rng as dice};\n\
                fn f() -> lat_wgpu::model::Vit { crate::data::read() } mycrate::no::no();";
    let found: Vec<_> = imports(code).into_iter().collect();
    assert_eq!(found, ["data", "error", "gpu", "model", "rng", "shape"]);
}

#[test]
fn the_laws_object() {
    for (from, to) in [
        ("gpu", "kernels"),
        ("kernels", "layers"),
        ("kernels", "model"),
        ("layers", "checkpoint"),
        ("images", "gpu"),
        ("checkpoint", "kernels"),
        ("checkpoint", "model"),
        ("embeddings", "model"),
        ("model", "tasks"),
        ("tasks", "cli"),
        ("gpu", "error"),
    ] {
        assert!(objection(from, to).is_some(), "{from} may import {to}");
    }
    for (from, to) in [
        ("main", "cli"),
        ("cli", "tasks"),
        ("tasks", "embeddings"),
        ("model", "layers"),
        ("retrieval", "checkpoint"),
        ("datasets", "images"),
        // The filter of a gallery reads the camera off a name.
        ("embeddings", "datasets"),
        ("error", "gpu"),
    ] {
        assert_eq!(objection(from, to), None);
    }
}

#[test]
fn unit_tests_are_left_out() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { x.unwrap() }\n}\n";
    assert_eq!(without_tests(text), "fn a() {}\n");
    assert_eq!(without_tests("fn a() {}\n"), "fn a() {}\n");
}
