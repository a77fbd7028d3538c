//! Rules of ARCHITECTURE.md that neither the compiler nor clippy checks: imports between layers, complete kernel stems,
//! headers of shaders, and the words of docs/glossary.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the bottom: a module imports from layers below its own.
const LAYERS: [&[&str]; 10] = [
    &["gpu"],
    &["error", "observer", "ranks", "retry", "rng", "shape"],
    &["images", "storage", "figures"],
    &["kernels", "datasets", "report", "plot"],
    &["layers", "checkpoint", "embeddings", "cases"],
    &["model", "retrieval"],
    &["export", "train", "selftest"],
    &["tasks", "bench"],
    &["cli", "api"],
    &["main"],
];

/// Imports within a layer, as (from, to).
const SIDEWAYS: [(&str, &str); 9] = [
    ("images", "storage"),
    ("figures", "storage"),
    ("shape", "error"),
    ("rng", "error"),
    ("observer", "error"),
    ("ranks", "error"),
    ("retry", "error"),
    ("retry", "observer"),
    ("report", "plot"),
];

/// Forbidden imports from lower layers: host memory knows no GPU, kernels no files.
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

/// Prefixes of tensor names in weights files, which only `checkpoint` and `model` know.
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

/// Untracked folders that tools fill.
const DOWNLOADS: [&str; 3] = ["/node_modules/", "/.venv/", "/__pycache__/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A path from the root, separated by `/`.
fn shown(path: &Path) -> String {
    let parts = path.strip_prefix(root()).unwrap_or(path).iter();
    parts.map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Sorted files below a folder of the repository; none if there is no such folder.
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

fn files_with(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = files(&root().join(folder));
    found.retain(|path| path.extension().is_some_and(|found| found == extension));
    found
}

/// Paths and contents of the repository's text files, without lock files, which name the registry.
fn texts() -> Vec<(String, String)> {
    let own = "src shaders tests benches tools examples weights docs .ci .github README.md ARCHITECTURE.md CHANGELOG.md \
               CONTRIBUTING.md LICENSE Cargo.toml .gitignore deny.toml .rustfmt.toml";
    let mut found = Vec::new();
    for name in own.split(' ') {
        let path = root().join(name);
        for file in if path.is_file() { vec![path] } else { files(&path) } {
            let name = shown(&file);
            let skipped = [".safetensors", "/Cargo.lock"].iter().any(|suffix| name.ends_with(suffix));
            if skipped || DOWNLOADS.iter().any(|folder| name.contains(folder)) {
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

/// A Rust source without comments and unit tests.
struct Source {
    /// Path from the root.
    path: String,
    /// Top-level module: `gpu` of src/gpu/plan.rs.
    module: String,
    /// Code without comments, contents of literals and unit tests.
    code: String,
    /// Contents of the string literals.
    strings: Vec<String>,
}

/// The sources of the library and its program.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    // A file tests.rs holds unit tests.
    for file in files_with("src", "rs").into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let path = shown(&file);
        let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
        let module = inside.split('/').next().unwrap_or_default().to_string();
        let (code, strings) = lex(without_tests(&read(&file)));
        found.push(Source { path, module, code, strings });
    }
    assert!(!found.is_empty(), "no sources under {}", root().display());
    found
}

/// The text before the unit tests, which are the last item of a file.
fn without_tests(text: &str) -> &str {
    let at = text.rfind("mod tests {").and_then(|end| text[..end].rfind("#[cfg(test)]\n"));
    at.map_or(text, |at| &text[..at])
}

/// Splits Rust text into code, without comments and with empty literals, and the contents of its string literals.
fn lex(text: &str) -> (String, Vec<String>) {
    let mut code = String::new();
    let mut strings = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let raw = rest.strip_prefix('r').map(|tail| tail.len() - tail.trim_start_matches('#').len());
        let word_before = code.ends_with(is_word);
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

/// The text after a character literal; `None` at anything else, such as a lifetime.
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

/// Positions of `word` as a whole word.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// First names of all paths from the crate's root: `gpu` of `crate::gpu::Context`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["crate", "lat_wgpu"] {
        for at in words(code, start) {
            let Some(path) = code[at + start.len()..].strip_prefix("::") else { continue };
            match path.strip_prefix('{') {
                None => found.extend(first_word(path)),
                Some(group) => {
                    // Names directly in the group, one after each comma.
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

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The reason why a module may not import another, if any.
fn objection(from: &str, to: &str) -> Option<String> {
    if from == to || from == "lib" {
        return None;
    }
    // `entry_points` is its own macro, which Rust exports at the crate's root.
    if from == "gpu" && to != "entry_points" {
        return Some(format!("`gpu` must know nothing of the product, but imports `{to}`"));
    }
    if BARRED.iter().any(|(module, barred)| *module == from && barred.contains(&to)) {
        return Some(format!("`{from}` must not know `{to}`"));
    }
    // Macros and types at the crate's root have no layer.
    let (to_layer, from_layer) = (layer(to)?, layer(from)?);
    if to_layer > from_layer {
        return Some(format!("`{to}` is above `{from}`: imports only go down"));
    }
    let sideways = to_layer == from_layer && !SIDEWAYS.contains(&(from, to));
    sideways.then(|| format!("`{to}` is beside `{from}`: imports only go down"))
}

/// Asserts that a rule has no violations, or lists them all.
fn none(rule: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{rule}\n{}", wrong.join("\n"));
}

/// Stems: the files directly in src/kernels.
fn stems() -> Vec<String> {
    let mut stems: Vec<_> = files_with("src/kernels", "rs")
        .iter()
        .filter(|path| path.parent().is_some_and(|folder| folder.ends_with("src/kernels")))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    stems.retain(|stem| stem != "mod");
    assert!(!stems.is_empty(), "src/kernels holds no stem");
    stems
}

/// Names and texts of the shaders, without the helpers in shaders/common.
fn shaders() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in files_with("shaders", "wgsl") {
        let name = shown(&path);
        let name = name.trim_start_matches("shaders/").trim_end_matches(".wgsl");
        if !name.contains('/') {
            found.push((name.to_string(), read(&path)));
        }
    }
    found
}

/// The comment at the start of a WGSL file, without its slashes.
fn header(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_stem_has_its_four_files() {
    let mut wrong = Vec::new();
    for stem in stems() {
        for file in ["shaders/STEM.wgsl", "src/reference/STEM.rs", "src/cases/STEM.rs"] {
            let file = file.replace("STEM", &stem);
            if !root().join(&file).is_file() {
                wrong.push(format!("{stem}: no {file}"));
            }
        }
    }
    none("A stem has four files.", wrong);
}

#[test]
fn every_file_of_a_stem_is_listed() {
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
    for path in files_with("tests/kernels", "rs") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !listed.contains(&format!("#[path = \"kernels/{name}\"]")) {
            wrong.push(format!("tests/kernels.rs has no module of tests/kernels/{name}"));
        }
    }
    none("A file of a stem that no list names is dead code.", wrong);
}

#[test]
fn every_shader_belongs_to_a_stem() {
    let stems = stems();
    let mut wrong = Vec::new();
    let mut declared = String::new();
    for stem in &stems {
        declared.push_str(&read(&root().join(format!("src/kernels/{stem}.rs"))));
    }
    // The engine adds the helpers that store quads.
    declared.push_str(&read(&root().join("src/gpu/kernel.rs")));
    for (name, _) in shaders() {
        let owner = stems.iter().find(|stem| name == **stem || name.starts_with(&format!("{stem}_")));
        let text = owner.map(|stem| read(&root().join(format!("src/kernels/{stem}.rs"))));
        if !text.is_some_and(|text| text.contains(&format!("shaders/{name}.wgsl\""))) {
            wrong.push(format!("shaders/{name}.wgsl: no stem's file in src/kernels includes it"));
        }
    }
    for path in files_with("shaders/common", "wgsl") {
        if !declared.contains(&format!("{}\"", shown(&path))) {
            wrong.push(format!("{}: no kernel uses this helper", shown(&path)));
        }
    }
    none(
        "src/kernels/S.rs includes S.wgsl and S_*.wgsl; a kernel or the engine includes each helper.",
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
            wrong.push(format!("{name}.wgsl: the first line doesn't give the purpose"));
        }
        // A second family of a stem may refer to the first.
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
            wrong.push(format!("{name}.wgsl: the header doesn't give the work of a workgroup or invocation"));
        }
        if !header.contains("Limits:") {
            wrong.push(format!("{name}.wgsl: the header has no `Limits:`"));
        }
    }
    for path in files_with("shaders/common", "wgsl") {
        if !header(&read(&path)).trim_start().starts_with("Helper:") {
            wrong.push(format!("{}: the header doesn't start with `Helper:`", shown(&path)));
        }
    }
    none(
        "A shader starts with purpose, formula, buffers, owner, source and limits (shaders/README.md).",
        wrong,
    );
}

#[test]
fn imports_only_go_down() {
    let mut wrong = Vec::new();
    for source in sources() {
        let known = layer(&source.module).is_some() || ["lib", "reference"].contains(&source.module.as_str());
        assert!(known, "LAYERS has no layer for {}", source.module);
        for to in imports(&source.code) {
            if let Some(objection) = objection(&source.module, &to) {
                wrong.push(format!("{}: {objection}", source.path));
            }
        }
        // `super` could reach other top-level modules.
        let depth = source.path.matches('/').count() + usize::from(!source.path.ends_with("/mod.rs"));
        if source.code.contains(&"super::".repeat(depth - 1))
            && source.module != "lib"
            && source.module != "main"
        {
            wrong.push(format!("{}: reaches the crate's root by `super`: write `crate`", source.path));
        }
    }
    none("Imports only go down the layers of ARCHITECTURE.md.", wrong);
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
fn only_cases_import_the_reference() {
    let mut wrong = Vec::new();
    for source in sources() {
        let imports = imports(&source.code);
        for (name, users) in [
            ("reference", &["reference", "cases"][..]),
            // The task `autotune` fills its operands as benches do.
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
        "The reference is plain loops over std. Only `cases` imports it; only `selftest`, `bench` and `tasks` import `cases`.",
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
    none("Only `checkpoint` and `model` name tensors of weights files.", wrong);
}

#[test]
fn no_machine_paths() {
    // In pieces, so that this file passes.
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
    none("No file names a path of a machine.", wrong);
}

#[test]
fn no_registry_hosts() {
    let hosts = [
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("python", "hosted.org"),
        concat!("npm", "js.org"),
        concat!("npm", "js.com"),
        concat!("rust-lang", ".org"),
    ];
    let mut wrong = Vec::new();
    // The only file that may ask an index.
    for (path, text) in texts().into_iter().filter(|(path, _)| path != "src/tasks/models/fetch.rs") {
        for host in hosts {
            if text.contains(host) {
                wrong.push(format!("{path}: {host}"));
            }
        }
    }
    none("The user configures the registry of packages.", wrong);
}

/// Files with `unsafe` code and the number of these words.
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
fn every_unsafe_is_counted() {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "tools"] {
        for file in files_with(folder, "rs") {
            let count = words(&lex(&read(&file)).0, "unsafe").count();
            if count > 0 {
                found.push((shown(&file), count));
            }
        }
    }
    assert_eq!(found, UNSAFE.map(|(path, count)| (path.to_string(), count)));
}

/// The words that docs/glossary.md gives up, in lower case.
fn words_given_up() -> Vec<String> {
    let glossary = read(&root().join("docs/glossary.md"));
    let (_, section) = glossary.split_once("## Words given up").expect("the section");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let words = cells.filter(|cell| *cell != "not").flat_map(|cell| cell.split(", "));
    words.map(str::to_lowercase).collect()
}

/// Lines with a word that is given up, a question word that opens a comment, or a doc comment of one letter.
fn odd_prose(text: &str, given_up: &[String]) -> Vec<String> {
    let letter = |c: char| c.is_alphabetic() || c == '-';
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        let found = given_up.iter().filter(|word| {
            lower.match_indices(word.as_str()).any(|(at, _)| {
                !lower[..at].ends_with(letter) && !lower[at + word.len()..].starts_with(letter)
            })
        });
        wrong.extend(found.map(|word| format!("{}: `{word}`", number + 1)));
        let comment = ["///", "//!", "//", "#"].iter().find_map(|mark| line.trim_start().strip_prefix(mark));
        let comment = comment.unwrap_or_default().trim();
        let first: String = comment.chars().take_while(|c| c.is_alphabetic()).collect();
        if ["What", "Whether", "Who", "Whom", "How"].contains(&first.as_str()) {
            wrong.push(format!("{}: opens with `{first}`", number + 1));
        }
        if line.trim_start().starts_with("///") && first.len() == 1 && comment[1..] == *"." {
            wrong.push(format!("{}: one letter", number + 1));
        }
    }
    wrong
}

#[test]
fn prose_keeps_to_the_glossary() {
    let given_up = words_given_up();
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        if !["docs/glossary.md", "CHANGELOG.md", "LICENSE"].contains(&path.as_str()) {
            wrong.extend(odd_prose(&text, &given_up).into_iter().map(|line| format!("{path}:{line}")));
        }
    }
    none("docs/glossary.md gives these words up; a comment states, it doesn't ask.", wrong);
}

#[test]
fn odd_prose_is_found() {
    let given_up = words_given_up();
    assert!(given_up.len() > 20, "{given_up:?}");
    for word in &given_up {
        let finds = |line: &str| odd_prose(&format!("\n{line}"), &given_up).contains(&format!("2: `{word}`"));
        for line in [format!("// The {word} is odd."), format!("fn a_{word}_b()"), word.to_uppercase()] {
            assert!(finds(&line), "{line}");
        }
        assert!(!finds(&format!("x{word} {word}x {word}-x")), "{word}");
    }
    for opening in ["/// What it is.", "  # How it works.", "//! Whether it is.", "/// B."] {
        assert_eq!(odd_prose(opening, &given_up).len(), 1, "{opening}");
    }
    for plain in ["/// Whatever happens.", "/// Batch size B.", "let a = b; // What", "/// A b."] {
        assert_eq!(odd_prose(plain, &given_up), Vec::<String>::new(), "{plain}");
    }
}

#[test]
fn lexer_separates_code_from_strings() {
    let text = "let a = \"// no \\\" comment\"; // use crate::gpu;\nlet b = 'x'; let c = '\\''; fn d<'e>() {}\n\
                let f = r#\"raw \"text\"\"#; /* gone */ let var\" = 1;";
    let (code, strings) = lex(&text.replace("var\"", "var"));
    assert_eq!(strings, ["// no \\\" comment", "raw \"text\""]);
    assert!(!code.contains("crate") && !code.contains("gone"), "{code}");
    assert!(code.contains("fn d<'e>() {}") && code.contains("let var = 1;"), "{code}");
}

#[test]
fn imports_are_found() {
    let code = "use crate::gpu::{Context, Plan}; use crate::{error::{Error, Result}, shape, rng as dice};\n\
                fn f() -> lat_wgpu::model::Vit { crate::data::read() } mycrate::no::no();";
    let found: Vec<_> = imports(code).into_iter().collect();
    assert_eq!(found, ["data", "error", "gpu", "model", "rng", "shape"]);
}

#[test]
fn forbidden_imports_are_found() {
    let pairs = |text: &'static str| text.split(", ").filter_map(|pair| pair.split_once(' '));
    let forbidden = "gpu kernels, kernels layers, kernels model, layers checkpoint, images gpu, checkpoint kernels, \
                     checkpoint model, embeddings model, model tasks, tasks cli, gpu error";
    for (from, to) in pairs(forbidden) {
        assert!(objection(from, to).is_some(), "{from} may import {to}");
    }
    let allowed = "main cli, cli tasks, tasks embeddings, model layers, retrieval checkpoint, datasets images, \
                   embeddings datasets, error gpu";
    for (from, to) in pairs(allowed) {
        assert_eq!(objection(from, to), None);
    }
}

#[test]
fn unit_tests_are_left_out() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { x.unwrap() }\n}\n";
    assert_eq!(without_tests(text), "fn a() {}\n");
    assert_eq!(without_tests("fn a() {}\n"), "fn a() {}\n");
}
