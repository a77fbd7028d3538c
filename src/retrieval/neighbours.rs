//! Distances from queries to a gallery of any size, and the nearest rows of each query, computed on the adapter in
//! tiles.
//!
//! Each tile of queries is compared with all tiles of the gallery. The gallery stays on the adapter if it fits. If not,
//! its tiles are uploaded again for each tile of queries, while the adapter works on the tile before. A distance
//! depends only on its two rows ([`crate::kernels::distance`]), so results don't depend on the tiles.

use super::distances::DistanceRows;
use crate::embeddings::rows::Rows;
use crate::error::{Error, Result};
use crate::gpu::{self, Buffer, Context, Plan, Readback, Recorder, Tensor, WORD};
use crate::kernels::distance::{Distances, MAX_DIM, Norms, SLAB, slabs};
use crate::kernels::topk::{GalleryTile, MAX_K, Merge, NOBODY, TILE_WORDS};
use std::collections::VecDeque;
use std::ops::Range;

/// Most queries in a tile: enough that reading the gallery costs little compared with the products.
const MAX_QUERIES: usize = 2048;
/// Floating-point operations of a tile: 0.1 s at 0.5 TFLOP/s, far below the limit of any watchdog.
const FLOPS_PER_TILE: f64 = 5e10;
/// Most bytes of distances in a tile, which one readback copies.
const MAX_DISTANCES: u64 = 64 << 20;
/// Largest squared length of a row: then |a - b|² ≤ (|a| + |b|)² is at most f32's maximum.
const MAX_SQUARE: f64 = f32::MAX as f64 / 4.0;
/// Tiles of the gallery in flight: one on the adapter, one being read.
const IN_FLIGHT: usize = 2;

/// A gallery row near a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// The row.
    pub index: usize,
    /// Its squared Euclidean distance from the query.
    pub distance: f32,
}

/// Number of rows on the adapter at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Queries.
    pub queries: usize,
    /// Rows in a tile of the gallery.
    pub gallery: usize,
    /// True if all tiles of the gallery stay on the adapter.
    pub resident: bool,
}

impl Tiles {
    /// The tiles for `queries` and `gallery` rows of `dim` dimensions that need at most `memory` bytes on the adapter.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if not even single rows fit.
    pub fn fit(context: &Context, queries: usize, gallery: usize, dim: usize, memory: u64) -> Result<Tiles> {
        let row = padded(dim) as u64 * WORD;
        // Queries, tiles of the gallery and distances get a quarter each; the last quarter is for resident tiles.
        let share = memory / 4;
        let most = (share / row).min(context.max_tensor_bytes() / row) as usize;
        if most == 0 {
            return Err(Error::TooLarge(match share < row {
                true => format!(
                    "rows of {dim} dimensions need at least {} bytes of device memory, of which {memory} are allowed",
                    4 * row
                ),
                false => format!(
                    "rows of {dim} dimensions need {row} bytes each; {} binds at most {}",
                    context.adapter.name,
                    context.max_tensor_bytes(),
                ),
            }));
        }
        let nearest = MAX_K as u64 * 2 * WORD;
        let query_tile = MAX_QUERIES.min(most).min((share / (row + nearest)).max(1) as usize);
        let query_tile = evenly(queries, query_tile);
        let work = (FLOPS_PER_TILE / (2.0 * dim as f64 * query_tile as f64)) as usize;
        let distances = share.min(MAX_DISTANCES).min(context.max_tensor_bytes());
        // Twice, because partial sums need as much.
        let columns = (distances / (2 * query_tile as u64 * WORD)) as usize;
        // The tiles of the product write whole quads of distances.
        let most = (most.min(work).min(columns) / 4 * 4).max(4);
        let gallery_tile = evenly(gallery, most).next_multiple_of(4);
        let tiles = gallery.div_ceil(gallery_tile) as u64;
        let beside = query_tile as u64 * (row + nearest + 2 * gallery_tile as u64 * WORD);
        let resident = tiles * gallery_tile as u64 * (row + WORD) + beside <= memory;
        Ok(Tiles { queries: query_tile, gallery: gallery_tile, resident })
    }
}

/// The size of at most `most` that cuts `rows` into the fewest tiles of nearly equal size.
fn evenly(rows: usize, most: usize) -> usize {
    let rows = rows.max(1);
    rows.div_ceil(rows.div_ceil(most))
}

/// Length of a row on the adapter, where kernels load quads.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(4)
}

/// Queries and a gallery with the adapter that compares them.
pub struct Neighbours<'a> {
    context: &'a Context,
    queries: &'a dyn Rows,
    gallery: &'a dyn Rows,
    tiles: Tiles,
    staging: Staging,
    query_rows: Buffer,
    query_norms: Buffer,
    /// From a tile of queries to a tile of the gallery.
    distances: Buffer,
    /// Partial sums of the distances.
    partial: Buffer,
    tile: Buffer,
    slots: Vec<Slot>,
    step: Option<Step>,
    nearest: Option<Nearest>,
}

/// Memory for a tile of the gallery.
struct Slot {
    rows: Buffer,
    norms: Buffer,
    /// Computes norms from rows.
    prepare: Plan,
    /// The tile that is loaded.
    tile: Option<usize>,
}

/// Plans and buffers for one number of queries.
struct Step {
    queries: usize,
    /// The first query that is loaded.
    first: usize,
    rows: Buffer,
    /// Distances of a tile (queries, gallery).
    distances: Buffer,
    /// Computes norms from rows.
    prepare: Plan,
    /// Computes the distances to the tile of each slot.
    measure: Vec<Plan>,
}

/// Plan and buffers for one number of queries and one of neighbours.
struct Nearest {
    queries: usize,
    k: usize,
    /// (queries, k).
    distances: Buffer,
    /// (queries, k).
    indices: Buffer,
    /// Merges the distances of a tile.
    merge: Plan,
}

impl<'a> Neighbours<'a> {
    /// Allocates memory on the adapter, at most `memory` bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] if queries and gallery differ in dimensions; [`Error::TooLarge`] if rows or gallery are too
    /// large for the adapter or the memory.
    pub fn new(
        context: &'a Context,
        queries: &'a dyn Rows,
        gallery: &'a dyn Rows,
        memory: u64,
    ) -> Result<Self> {
        let dim = check(queries, gallery)?;
        let tiles = Tiles::fit(context, queries.len(), gallery.len(), dim, memory)?;
        Self::with_tiles(context, queries, gallery, tiles)
    }

    /// Allocates memory for the given tiles.
    ///
    /// # Errors
    /// As [`Self::new`].
    ///
    /// # Panics
    /// If a tile has no row.
    pub fn with_tiles(
        context: &'a Context,
        queries: &'a dyn Rows,
        gallery: &'a dyn Rows,
        tiles: Tiles,
    ) -> Result<Self> {
        let dim = padded(check(queries, gallery)?);
        assert!(tiles.queries > 0 && tiles.gallery > 0, "tiles without rows: {tiles:?}");
        let count = gallery.len().div_ceil(tiles.gallery);
        let slots = if tiles.resident { count } else { count.min(1) };
        Ok(Neighbours {
            context,
            queries,
            gallery,
            tiles,
            staging: Staging::default(),
            query_rows: context.buffer("queries", tiles.queries * dim)?,
            query_norms: context.buffer("query norms", tiles.queries)?,
            distances: context.buffer("distances", tiles.queries * tiles.gallery)?,
            partial: context.buffer("partial", tiles.queries * tiles.gallery)?,
            tile: context.buffer("tile", TILE_WORDS)?,
            slots: (0..slots).map(|_| Slot::new(context, tiles.gallery, dim)).collect::<gpu::Result<_>>()?,
            step: None,
            nearest: None,
        })
    }

    /// Returns the tiles. Multiples of a tile's queries are the most efficient.
    pub fn tiles(&self) -> Tiles {
        self.tiles
    }

    /// Squared Euclidean distances of these queries to the whole gallery (queries, gallery), row by row.
    ///
    /// # Errors
    /// Errors of the rows and of the adapter; [`Error::Usage`] if a value isn't finite.
    ///
    /// # Panics
    /// If there are no such queries.
    pub fn distances(&mut self, queries: Range<usize>) -> Result<Vec<f32>> {
        let (width, columns) = (self.gallery.len(), self.tiles.gallery);
        let mut all = vec![0.0; queries.len() * width];
        for part in pieces(&queries, self.tiles.queries) {
            let out = &mut all[(part.start - queries.start) * width..][..part.len() * width];
            let first = part.start;
            let step = self.load(part)?;
            let distances = &step.distances;
            let send = |neighbours: &mut Self, readback: &mut Readback, _: &Range<usize>| {
                readback.start(neighbours.context, distances, distances.words);
                Ok(())
            };
            self.each_tile(&step, distances.words, send, |tile, found| {
                for (out, found) in out.chunks_mut(width).zip(found.chunks(columns)) {
                    out[tile.clone()].copy_from_slice(&found[..tile.len()]);
                }
            })?;
            if let Some(at) = out.iter().position(|distance| !distance.is_finite()) {
                return Err(self.not_finite(first + at / width, at % width));
            }
            self.step = Some(step);
        }
        Ok(all)
    }

    fn not_finite(&self, query: usize, row: usize) -> Error {
        Error::Data(format!(
            "the distance from {} to {} is not finite",
            called("query", self.queries, query),
            called("row of the gallery", self.gallery, row)
        ))
    }

    /// The `k` nearest gallery rows to each of these queries, nearest first, equal distances in the order of the
    /// gallery.
    /// Returns all rows if the gallery has fewer.
    ///
    /// # Errors
    /// As [`Self::distances`]; [`Error::Usage`] if `k` is larger than [`MAX_K`].
    ///
    /// # Panics
    /// If there are no such queries.
    pub fn nearest(&mut self, queries: Range<usize>, k: usize) -> Result<Vec<Vec<Neighbour>>> {
        let k = k.min(self.gallery.len());
        if k > MAX_K {
            return Err(Error::Usage(format!("{k} nearest rows are requested; {MAX_K} is the maximum")));
        }
        if k == 0 {
            return Ok(vec![Vec::new(); queries.len()]);
        }
        let mut all = Vec::with_capacity(queries.len());
        for part in pieces(&queries, self.tiles.queries) {
            let step = self.load(part)?;
            let nearest = match self.nearest.take() {
                Some(nearest) if (nearest.queries, nearest.k) == (step.queries, k) => nearest,
                _ => self.record_nearest(&step, k)?,
            };
            let send = |neighbours: &mut Self, readback: &mut Readback, tile: &Range<usize>| {
                let (first, count) = (tile.start as u32, tile.len() as u32);
                let tile = GalleryTile { first, count, fresh: first == 0 };
                neighbours.context.write(&neighbours.tile, bytemuck::cast_slice(&tile.words()));
                nearest.merge.run(neighbours.context)?;
                // Reading one word back waits for the adapter, which limits the tiles in flight.
                readback.start(neighbours.context, &nearest.distances, 1);
                Ok(())
            };
            self.each_tile(&step, 1, send, |_, _| {})?;
            let distances = self.context.read(&nearest.distances)?;
            let indices = self.context.read(&nearest.indices)?;
            if let Some(at) = distances.iter().position(|distance| !distance.is_finite()) {
                return Err(self.not_finite(step.first + at / k, indices[at].to_bits() as usize));
            }
            for (distances, indices) in distances.chunks(k).zip(indices.chunks(k)) {
                let pairs = distances.iter().zip(indices);
                let neighbour = |(&distance, index): (&f32, &f32)| Neighbour {
                    index: index.to_bits() as usize,
                    distance,
                };
                all.push(pairs.map(neighbour).collect());
            }
            self.step = Some(step);
            self.nearest = Some(nearest);
        }
        Ok(all)
    }

    /// Uploads a tile of queries.
    fn load(&mut self, queries: Range<usize>) -> Result<Step> {
        let mut step = match self.step.take() {
            Some(step) if step.queries == queries.len() => step,
            _ => self.record(queries.len())?,
        };
        step.first = queries.start;
        let gallery = self.gallery;
        let other = || called("row of the gallery", gallery, 0);
        let rows = self.staging.fill("query", self.queries, queries.clone(), queries.len(), &other)?;
        self.context.write(&step.rows, bytemuck::cast_slice(rows));
        step.prepare.run(self.context)?;
        Ok(step)
    }

    /// Computes the distances to each tile of the gallery in order. After a tile, `send` starts a readback of `words`
    /// words;
    /// `receive` gets them while the adapter works on a later tile.
    fn each_tile(
        &mut self,
        step: &Step,
        words: usize,
        send: impl Fn(&mut Self, &mut Readback, &Range<usize>) -> Result<()>,
        mut receive: impl FnMut(Range<usize>, Vec<f32>),
    ) -> Result<()> {
        let context = self.context;
        let mut flights: VecDeque<(Range<usize>, Readback)> = VecDeque::new();
        for (i, tile) in pieces(&(0..self.gallery.len()), self.tiles.gallery).enumerate() {
            let landed = if flights.len() < IN_FLIGHT { None } else { flights.pop_front() };
            let mut readback = match landed {
                None => Readback::new(context, words)?,
                Some((tile, mut readback)) => {
                    receive(tile, readback.finish(context)?);
                    readback
                }
            };
            let at = i % self.slots.len();
            let slot = &mut self.slots[at];
            if slot.tile != Some(i) {
                slot.tile = None;
                let queries = self.queries;
                let other = || called("query", queries, step.first);
                let rows = self.staging.fill(
                    "row of the gallery",
                    self.gallery,
                    tile.clone(),
                    self.tiles.gallery,
                    &other,
                )?;
                context.write(&slot.rows, bytemuck::cast_slice(rows));
                slot.prepare.run(context)?;
                slot.tile = Some(i);
            }
            step.measure[at].run(context)?;
            send(self, &mut readback, &tile)?;
            flights.push_back((tile, readback));
        }
        for (tile, mut readback) in flights {
            receive(tile, readback.finish(context)?);
        }
        Ok(())
    }

    fn record(&self, queries: usize) -> Result<Step> {
        let dim = padded(self.gallery.dim());
        let gallery = self.tiles.gallery;
        let rows = self.query_rows.slice("queries", 0, queries * dim);
        let norms = self.query_norms.slice("query norms", 0, queries);
        let distances = self.distances.slice("distances", 0, queries * gallery);
        let partial = self.partial.slice("partial", 0, queries * gallery);
        let measure = |slot: &Slot| {
            let mut recorder = Recorder::new(self.context);
            let call = Distances {
                queries: import_slabs(&mut recorder, &rows, queries, dim),
                gallery: import_slabs(&mut recorder, &slot.rows, gallery, dim),
                query_norms: recorder.import(&norms),
                gallery_norms: recorder.import(&slot.norms),
                distances: recorder.import(&distances),
                partial: recorder.import(&partial),
                query_count: queries,
                gallery_count: gallery,
                dim,
            };
            call.record(&mut recorder, "distances");
            recorder.finish()
        };
        Ok(Step {
            queries,
            first: 0,
            prepare: prepare(self.context, &rows, &norms, queries, dim)?,
            measure: self.slots.iter().map(measure).collect::<gpu::Result<_>>()?,
            rows,
            distances,
        })
    }

    fn record_nearest(&self, step: &Step, k: usize) -> Result<Nearest> {
        let queries = step.queries;
        let distances = self.context.buffer("nearest distances", queries * k)?;
        let indices = self.context.buffer("nearest indices", queries * k)?;
        let mut recorder = Recorder::new(self.context);
        let call = Merge {
            distances: recorder.import(&step.distances),
            tile: recorder.import(&self.tile),
            nearest_distance: recorder.import(&distances),
            nearest_index: recorder.import(&indices),
            queries,
            gallery: self.tiles.gallery,
            k,
        };
        call.record(&mut recorder, "nearest");
        Ok(Nearest { queries, k, distances, indices, merge: recorder.finish()? })
    }
}

impl Slot {
    fn new(context: &Context, count: usize, dim: usize) -> gpu::Result<Slot> {
        let rows = context.buffer("gallery", count * dim)?;
        let norms = context.buffer("gallery norms", count)?;
        let prepare = prepare(context, &rows, &norms, count, dim)?;
        Ok(Slot { rows, norms, prepare, tile: None })
    }
}

fn import_slabs(recorder: &mut Recorder<'_>, rows: &Buffer, count: usize, dim: usize) -> Vec<Tensor> {
    let slab = |(start, width): (usize, usize)| rows.slice("slab", start, count * width);
    slabs(count, dim).map(|place| recorder.import(&slab(place))).collect()
}

/// Records the norms of rows.
fn prepare(context: &Context, rows: &Buffer, norms: &Buffer, count: usize, dim: usize) -> gpu::Result<Plan> {
    let mut recorder = Recorder::new(context);
    let call = Norms { rows: recorder.import(rows), norms: recorder.import(norms), count, dim };
    call.record(&mut recorder, "norms");
    recorder.finish()
}

/// Checks that the rows can be compared, and returns their dimensions.
fn check(queries: &dyn Rows, gallery: &dyn Rows) -> Result<usize> {
    let dim = gallery.dim();
    if queries.dim() != dim {
        return Err(Error::Usage(format!(
            "queries have {} dimensions and the gallery's rows {dim}: both must come from the same model",
            queries.dim()
        )));
    }
    if dim == 0 {
        return Err(Error::Usage("the embeddings have no dimensions".to_string()));
    }
    if dim > MAX_DIM {
        return Err(Error::TooLarge(format!("embeddings of {dim} dimensions; {MAX_DIM} is the maximum")));
    }
    if gallery.len() >= NOBODY as usize {
        return Err(Error::TooLarge(format!(
            "a gallery of {} rows; {} is the maximum",
            gallery.len(),
            NOBODY - 1
        )));
    }
    Ok(dim)
}

/// Names a row in messages by its number, and by its name if it has one.
fn called(what: &str, rows: &dyn Rows, row: usize) -> String {
    let name = rows.name(row).map_or(String::new(), |name| format!(" ({name})"));
    format!("{what} {row}{name}")
}

/// Cuts a range into pieces of `most`; the last may be shorter.
fn pieces(range: &Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = range.end;
    range.clone().step_by(most).map(move |start| start..end.min(start + most))
}

/// Buffers for rows to upload.
#[derive(Default)]
struct Staging {
    /// Rows, as read.
    read: Vec<f32>,
    /// Slabs, as kernels load them.
    slabs: Vec<f32>,
}

impl Staging {
    /// Reads rows and lays them out in slabs for a tile of `count` rows. Each row is padded with zeros. Rows that the
    /// last tile lacks keep old values.
    ///
    /// # Errors
    /// If a distance from `other`, a row named in the message, would not be finite.
    fn fill(
        &mut self,
        what: &str,
        source: &dyn Rows,
        rows: Range<usize>,
        count: usize,
        other: &dyn Fn() -> String,
    ) -> Result<&[f32]> {
        let (dim, wide) = (source.dim(), padded(source.dim()));
        self.read.resize(rows.len() * dim, 0.0);
        source.read(rows.clone(), &mut self.read)?;
        if let Some(at) = self.read.iter().position(|v| !v.is_finite()) {
            return Err(Error::Usage(format!(
                "{} holds {} at dimension {}: its distance from {} is not finite",
                called(what, source, rows.start + at / dim),
                self.read[at],
                at % dim,
                other()
            )));
        }
        let square = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        for (at, row) in self.read.chunks(dim.max(1)).enumerate() {
            let square = square(row);
            let reason = if square > MAX_SQUARE {
                "is not finite, or might not be, in f32"
            } else if square > 0.0 && square < f64::from(f32::MIN_POSITIVE) {
                // Its squares underflow, and all distances would be equal.
                "underflows in f32"
            } else {
                continue;
            };
            return Err(Error::Data(format!(
                "{} has length {:.3e}: its distance from {} {reason}",
                called(what, source, rows.start + at),
                square.sqrt(),
                other()
            )));
        }
        self.slabs.resize(count * wide, 0.0);
        for (i, (start, width)) in slabs(count, wide).enumerate() {
            let first = i * SLAB;
            let held = width.min(dim - first);
            let slab = self.slabs[start..start + count * width].chunks_mut(width);
            for (to, from) in slab.zip(self.read.chunks(dim)) {
                to[..held].copy_from_slice(&from[first..first + held]);
                to[held..].fill(0.0);
            }
        }
        Ok(&self.slabs)
    }
}

impl DistanceRows for Neighbours<'_> {
    fn queries(&self) -> usize {
        self.queries.len()
    }

    fn gallery(&self) -> usize {
        self.gallery.len()
    }

    fn step(&self) -> usize {
        self.tiles.queries
    }

    fn rows(&mut self, queries: Range<usize>) -> Result<Vec<f32>> {
        self.distances(queries)
    }
}
