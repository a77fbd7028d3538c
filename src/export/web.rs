//! Exports a network to a folder that a browser can run: the recorded plan as JSON, its shaders and weights, a player
//! that replays the plan, and a page (`tools/web`).
//!
//! The folder holds `plan.json`, `shaders/*.wgsl`, `weights-N.bin` (f32, little-endian, every tensor aligned to 256
//! bytes) and the page. It gets its name when it is complete.

use crate::checkpoint::{Network, check_exportable};
use crate::error::{Error, Result};
use crate::gpu::{Access, Buffer, Context, Dispatch, PlanListing, Recorder, Region, WORD, assemble};
use crate::kernels::image;
use crate::model::{LaTransformer, Slot, inference_groups};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Version of the plan, for the player.
const FORMAT: u32 = 1;

/// Largest file of weights in bytes, except for larger tensors. Web hosts refuse large files.
const WEIGHTS_BYTES: u64 = 64 << 20;

/// The page and the player, with their file names.
const PAGE: [(&str, &str); 4] = [
    ("index.html", include_str!("../../tools/web/index.html")),
    (
        "page.css",
        concat!(include_str!("../plot/colours.css"), "\n", include_str!("../../tools/web/page.css")),
    ),
    ("page.js", include_str!("../../tools/web/page.js")),
    ("player.js", include_str!("../../tools/web/player.js")),
];

/// Size of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Dispatches of one batch.
    pub dispatches: usize,
    /// Number of distinct shaders.
    pub shaders: usize,
    /// Size of the weights in bytes.
    pub weight_bytes: u64,
    /// Other memory that an adapter needs, in bytes: activations, input and output.
    pub other_bytes: u64,
}

/// `plan.json`, which the player reads.
#[derive(Debug, Serialize)]
struct PlanFile {
    format: u32,
    made_by: &'static str,
    /// SHA-256 of the backbone's weights, as in embeddings.
    weights_sha256: String,
    preprocess: Preprocess,
    embedding: Embedding,
    /// Images per replay.
    batch: usize,
    /// Largest squared distance between images of the same person, if the model has a threshold.
    threshold: Option<f32>,
    buffers: Vec<BufferFile>,
    pipelines: Vec<Pipeline>,
    dispatches: Vec<Launch>,
}

/// Preprocessing up to the bytes of the input. The recording divides by 255 and applies mean and deviation.
#[derive(Debug, Serialize)]
struct Preprocess {
    /// Height and width in pixels.
    size: [usize; 2],
    interpolation: String,
    mean: [f32; 3],
    std: [f32; 3],
    /// True if an embedding is the mean of the image's and its mirror image's.
    flip: bool,
}

#[derive(Debug, Serialize)]
struct Embedding {
    /// Dimensions of an embedding: R·D.
    dim: usize,
    /// Number of parts R. Each is normalised before the whole embedding is.
    parts: usize,
}

/// Use of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Bytes of images (B, H, W, 3), padded to whole words.
    Input,
    /// Embeddings (B, R·D) in f32.
    Output,
    /// Bound where a dispatch doesn't use a binding.
    Unused,
    /// Activations and other temporary tensors.
    Heap,
    /// Weights, from a file.
    Weights,
}

#[derive(Debug, Serialize)]
struct BufferFile {
    kind: Kind,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Offset and length of each tensor of weights in bytes, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tensors: BTreeMap<String, [u64; 2]>,
}

impl BufferFile {
    fn new(kind: Kind, bytes: u64) -> BufferFile {
        BufferFile { kind, bytes, file: None, tensors: BTreeMap::new() }
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct Pipeline {
    shader: String,
    entry: &'static str,
    overrides: BTreeMap<&'static str, f64>,
    /// For each storage buffer, from binding 1: true if it is written. Binding 0 is the uniform block.
    writes: Vec<bool>,
}

#[derive(Debug, Serialize)]
struct Launch {
    label: String,
    pipeline: usize,
    grid: [u32; 3],
    /// The uniform block as 32-bit words.
    params: Vec<u32>,
    /// Buffer of each storage binding, with offset and length in bytes.
    bindings: Vec<(usize, u64, u64)>,
}

/// Exports `network` to the new folder `target`, recorded for batches of `batch` images. `context` must be
/// [portable](crate::gpu::ContextOptions::portable), so that the recording runs on any adapter.
///
/// # Errors
/// Those of [`check_exportable`]; [`Error::TooLarge`] if a tensor exceeds WebGPU's default limits; [`Error::Usage`] if
/// `target` is a file or a folder that isn't empty; [`Error::Io`].
pub fn export(
    context: &Context,
    network: &Network,
    batch: usize,
    flip: bool,
    target: &Path,
) -> Result<Exported> {
    check_exportable(network)?;
    if target.is_file() || std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::Usage(format!(
            "{} exists already: --out needs a new or an empty folder",
            target.display()
        )));
    }
    let listing = record(context, network, batch)?;
    let mut shaders = BTreeMap::new();
    let (buffers, files) = lay_out(&listing, network, batch);
    let plan = plan_file(&listing, network, (batch, flip), buffers, &mut shaders);
    let sum = |wanted: fn(Kind) -> bool| {
        plan.buffers.iter().filter(|buffer| wanted(buffer.kind)).map(|buffer| buffer.bytes).sum()
    };
    let exported = Exported {
        dispatches: plan.dispatches.len(),
        shaders: shaders.len(),
        weight_bytes: sum(|kind| kind == Kind::Weights),
        other_bytes: sum(|kind| kind != Kind::Weights),
    };

    let folder = temporary_folder_beside(target)?;
    let shader_folder = folder.path().join("shaders");
    std::fs::create_dir(&shader_folder).map_err(Error::io("create", target))?;
    for (name, text) in &shaders {
        write(&shader_folder.join(name), text.as_bytes(), target)?;
    }
    for (name, text) in PAGE {
        write(&folder.path().join(name), text.as_bytes(), target)?;
    }
    for file in &files {
        file.write(network, &folder.path().join(&file.name)).map_err(Error::io("write", target))?;
    }
    let text = match serde_json::to_string(&plan) {
        Ok(text) => text,
        Err(error) => unreachable!("numbers and strings always serialise: {error}"),
    };
    write(&folder.path().join("plan.json"), text.as_bytes(), target)?;

    // Not every system renames over an empty folder.
    if target.is_dir() {
        std::fs::remove_dir(target).map_err(Error::io("replace", target))?;
    }
    std::fs::rename(folder.path(), target).map_err(Error::io("create", target))?;
    // The folder was renamed: there is nothing to remove.
    let _ = folder.keep();
    Ok(exported)
}

/// Records the plan from pixels to embeddings, without memory.
fn record(context: &Context, network: &Network, batch: usize) -> Result<PlanListing> {
    let model = LaTransformer::unallocated(context, network)?;
    let pixels = context.unallocated(INPUT, model.pixel_words(batch));
    let embeddings = context.unallocated(OUTPUT, batch * network.config.embedding_len());
    let mut recorder = Recorder::new(context);
    model.embed(&mut recorder, &pixels, None, &embeddings, batch);
    Ok(recorder.list()?)
}

/// Labels of the input and output buffers.
const INPUT: &str = "pixels";
const OUTPUT: &str = "embeddings";
/// Index of the buffer for unused bindings that are read. The next buffer is for those that are written.
const UNUSED: usize = 2;
const FIRST_HEAP: usize = 4;

/// A file of weights.
struct WeightsFile {
    name: String,
    /// Its tensors, with their offsets in bytes.
    slots: Vec<(Slot, u64)>,
    bytes: u64,
}

impl WeightsFile {
    /// Writes the tensors with zeros between them.
    fn write(&self, network: &Network, path: &Path) -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        let mut written = 0;
        for (slot, start) in &self.slots {
            pad(&mut out, start - written)?;
            written = start + slot.words as u64 * WORD;
            for (name, _) in &slot.tensors {
                for values in network.tensors[name].data.chunks(1 << 12) {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    out.write_all(&bytes)?;
                }
            }
        }
        pad(&mut out, self.bytes - written)?;
        out.into_inner().map_err(|error| error.into_error())?.sync_all()
    }
}

/// Writes zeros for padding: fewer than the alignment of tensors.
fn pad(out: &mut impl Write, bytes: u64) -> std::io::Result<()> {
    out.write_all(&vec![0; bytes as usize])
}

/// Lists the buffers of the plan in the order of their indices, and the files of the weights.
fn lay_out(listing: &PlanListing, network: &Network, batch: usize) -> (Vec<BufferFile>, Vec<WeightsFile>) {
    let config = &network.config;
    let pixels = image::pixel_words(batch, config.image) as u64 * WORD;
    let embeddings = (batch * config.embedding_len()) as u64 * WORD;
    let mut buffers = vec![
        BufferFile::new(Kind::Input, pixels.max(4 * WORD)),
        BufferFile::new(Kind::Output, embeddings.max(4 * WORD)),
        BufferFile::new(Kind::Unused, 4 * WORD),
        BufferFile::new(Kind::Unused, 4 * WORD),
    ];
    buffers.extend(listing.heaps.iter().map(|&bytes| BufferFile::new(Kind::Heap, bytes)));

    let mut files: Vec<WeightsFile> = Vec::new();
    for slot in inference_groups(config).into_iter().flat_map(|group| group.slots) {
        let align = (Buffer::SLICE_ALIGN as u64) * WORD;
        let bytes = (slot.words as u64 * WORD).next_multiple_of(align);
        match files.last_mut() {
            Some(file) if file.bytes + bytes <= WEIGHTS_BYTES => {
                file.slots.push((slot, file.bytes));
                file.bytes += bytes;
            }
            _ => {
                let name = format!("weights-{}.bin", files.len());
                files.push(WeightsFile { name, slots: vec![(slot, 0)], bytes });
            }
        }
    }
    for file in &files {
        let tensors =
            file.slots.iter().map(|(slot, start)| (slot.label.clone(), [*start, slot.words as u64 * WORD]));
        buffers.push(BufferFile {
            file: Some(file.name.clone()),
            tensors: tensors.collect(),
            ..BufferFile::new(Kind::Weights, file.bytes)
        });
    }
    (buffers, files)
}

/// Describes the plan; adds the text of its shaders to `shaders`, by name.
fn plan_file(
    listing: &PlanListing,
    network: &Network,
    (batch, flip): (usize, bool),
    buffers: Vec<BufferFile>,
    shaders: &mut BTreeMap<String, String>,
) -> PlanFile {
    let mut weights: BTreeMap<&str, (usize, [u64; 2])> = BTreeMap::new();
    for (index, buffer) in buffers.iter().enumerate() {
        weights.extend(buffer.tensors.iter().map(|(name, place)| (name.as_str(), (index, *place))));
    }
    let binding = |region: &Region, access: Access| match region {
        Region::Heap { heap, offset, bytes } => (FIRST_HEAP + heap, *offset, *bytes),
        Region::Buffer { label, bytes } => match (&**label, weights.get(&**label)) {
            (_, Some((index, [offset, _]))) => (*index, *offset, *bytes),
            (INPUT, None) => (0, 0, *bytes),
            (OUTPUT, None) => (1, 0, *bytes),
            (_, None) => (UNUSED + usize::from(access != Access::Read), 0, *bytes),
        },
    };
    let mut pipelines = Vec::new();
    let mut dispatches = Vec::new();
    for (dispatch, regions) in listing.dispatches.iter().zip(&listing.regions) {
        let Dispatch { kernel, overrides, params, grid, label, .. } = dispatch;
        let pipeline = Pipeline {
            shader: shader_of(dispatch, shaders),
            entry: kernel.entry,
            overrides: overrides.iter().copied().collect(),
            writes: kernel.bindings.iter().map(|binding| binding.access != Access::Read).collect(),
        };
        let known = pipelines.iter().position(|known| *known == pipeline);
        dispatches.push(Launch {
            label: label.clone(),
            pipeline: known.unwrap_or(pipelines.len()),
            grid: *grid,
            params: params.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect(),
            bindings: regions
                .iter()
                .zip(kernel.bindings)
                .map(|(region, b)| binding(region, b.access))
                .collect(),
        });
        if known.is_none() {
            pipelines.push(pipeline);
        }
    }
    let (config, preprocess) = (&network.config, &network.preprocess);
    PlanFile {
        format: FORMAT,
        made_by: concat!("lat-wgpu ", env!("CARGO_PKG_VERSION")),
        weights_sha256: network.weights_sha256(),
        preprocess: Preprocess {
            size: [config.image.height, config.image.width],
            interpolation: preprocess.interpolation.clone(),
            mean: preprocess.mean,
            std: preprocess.std,
            flip,
        },
        embedding: Embedding { dim: config.embedding_len(), parts: config.parts() },
        batch,
        threshold: network.threshold.map(|threshold| threshold.distance),
        buffers,
        pipelines,
        dispatches,
    }
}

/// File name of a dispatch's shader, such as `attention-HEAD_DIM64-STEP16.wgsl`.
fn shader_of(dispatch: &Dispatch, shaders: &mut BTreeMap<String, String>) -> String {
    let mut name = dispatch.kernel.file.name.to_string();
    for (constant, value) in &dispatch.constants {
        name.push_str(&format!("-{constant}{value}"));
    }
    name.push_str(".wgsl");
    shaders
        .entry(name.clone())
        .or_insert_with(|| assemble(&dispatch.kernel, &dispatch.constants, dispatch.storage()));
    name
}

/// Creates a temporary folder beside `target`. Dropping it removes the folder.
fn temporary_folder_beside(target: &Path) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lat-wgpu-");
    // Permissions by the user's umask, as for any new folder. Temporary folders would be private.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let parent = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    builder.tempdir_in(parent).map_err(Error::io("create", target))
}

/// Writes a file of the folder. Errors name `target`, the folder that the user named.
fn write(path: &Path, bytes: &[u8], target: &Path) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", target))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", target))
}
