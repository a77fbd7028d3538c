//! Distances between queries and a gallery of any size, and every query's nearest rows: on the adapter, tile by tile.
//!
//! A tile of queries stays while the gallery is led past it. The gallery stays on the adapter where it fits; else its
//! tiles are read again for every tile of queries, while the adapter works on the one before. A distance depends on its
//! two rows alone ([`crate::kernels::distance`]), so nothing here depends on the tiles.

use super::distances::DistanceRows;
use crate::embeddings::rows::Rows;
use crate::error::{Error, Result};
use crate::gpu::{self, Buffer, Context, Plan, Readback, Recorder, Tensor, WORD};
use crate::kernels::distance::{Distances, MAX_DIM, Norms, SLAB, slabs};
use crate::kernels::topk::{MAX_K, Merge, NOBODY, PLACE_WORDS, Place};
use std::collections::VecDeque;
use std::ops::Range;

/// Most queries of a tile: enough that reading the gallery costs little beside the products.
const MAX_QUERIES: usize = 2048;
/// Floating-point operations of a tile: a tenth of a second at 0.5 TFLOP/s, far from any watchdog.
const FLOPS_PER_TILE: f64 = 5e10;
/// Distances of a tile, in bytes: what one readback brings.
const MAX_DISTANCES: u64 = 64 << 20;
/// Largest squared length of a row: |a - b|² is at most (|a| + |b|)², and so at most f32's largest number.
const MAX_SQUARE: f64 = f32::MAX as f64 / 4.0;
/// Tiles of the gallery that are on their way at once: one on the adapter, one being read.
const IN_FLIGHT: usize = 2;

/// A row of the gallery, seen from a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Which row.
    pub index: usize,
    /// Its squared Euclidean distance.
    pub distance: f32,
}

/// How many rows are on the adapter at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Queries.
    pub queries: usize,
    /// Rows of one tile of the gallery.
    pub gallery: usize,
    /// Whether all tiles of the gallery stay.
    pub resident: bool,
}

impl Tiles {
    /// The tiles for `queries` and `gallery` rows of `dim` numbers that need no more than `memory` bytes on the adapter.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if not even single rows fit.
    pub fn fit(context: &Context, queries: usize, gallery: usize, dim: usize, memory: u64) -> Result<Tiles> {
        let row = padded(dim) as u64 * WORD;
        // Queries, tiles of the gallery and distances get a quarter each; the last one is for what stays.
        let share = memory / 4;
        let most = (share / row).min(context.max_tensor_bytes() / row) as usize;
        if most == 0 {
            return Err(Error::TooLarge(match share < row {
                true => format!(
                    "rows of {dim} numbers need at least {} bytes of device memory, of which {memory} are allowed",
                    4 * row
                ),
                false => format!(
                    "rows of {dim} numbers need {row} bytes each; {} binds at most {}",
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
        // Twice: sums on their way need as much.
        let columns = (distances / (2 * query_tile as u64 * WORD)) as usize;
        // Whole quads of distances: what the tiles of the product write.
        let most = (most.min(work).min(columns) / 4 * 4).max(4);
        let gallery_tile = evenly(gallery, most).next_multiple_of(4);
        let tiles = gallery.div_ceil(gallery_tile) as u64;
        let beside = query_tile as u64 * (row + nearest + 2 * gallery_tile as u64 * WORD);
        let resident = tiles * gallery_tile as u64 * (row + WORD) + beside <= memory;
        Ok(Tiles { queries: query_tile, gallery: gallery_tile, resident })
    }
}

/// The tile, of at most `most` rows, that cuts `rows` into as few tiles as possible of nearly one size.
fn evenly(rows: usize, most: usize) -> usize {
    let rows = rows.max(1);
    rows.div_ceil(rows.div_ceil(most))
}

/// Length of a row on the adapter: kernels load four numbers at a time.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(4)
}

/// Queries and a gallery, and the adapter that measures between them.
pub struct Neighbours<'a> {
    context: &'a Context,
    queries: &'a dyn Rows,
    gallery: &'a dyn Rows,
    tiles: Tiles,
    staging: Staging,
    query_rows: Buffer,
    query_norms: Buffer,
    /// Of a tile of queries to a tile of the gallery.
    distances: Buffer,
    /// The same, while sums are on their way.
    partial: Buffer,
    place: Buffer,
    slots: Vec<Slot>,
    step: Option<Step>,
    nearest: Option<Nearest>,
}

/// Room for a tile of the gallery.
struct Slot {
    rows: Buffer,
    norms: Buffer,
    /// From rows to norms.
    prepare: Plan,
    /// Which tile is there.
    tile: Option<usize>,
}

/// What is recorded for one number of queries.
struct Step {
    queries: usize,
    /// The first of the queries that are there.
    first: usize,
    rows: Buffer,
    /// (queries, gallery) of a tile.
    distances: Buffer,
    /// From rows to norms.
    prepare: Plan,
    /// Distances to the tile in each slot.
    measure: Vec<Plan>,
}

/// What is recorded for one number of queries and of neighbours.
struct Nearest {
    queries: usize,
    k: usize,
    /// (queries, k).
    distances: Buffer,
    /// (queries, k).
    indices: Buffer,
    /// Takes a tile's distances in.
    merge: Plan,
}

impl<'a> Neighbours<'a> {
    /// Makes room on the adapter within `memory` bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] if queries and gallery differ in the length of their rows; [`Error::TooLarge`] if rows or gallery
    /// are too large for the adapter or the memory.
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

    /// Makes room for tiles of the caller's choice.
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
            place: context.buffer("place", PLACE_WORDS)?,
            slots: (0..slots).map(|_| Slot::new(context, tiles.gallery, dim)).collect::<gpu::Result<_>>()?,
            step: None,
            nearest: None,
        })
    }

    /// The tiles in use: a multiple of that many queries at a time wastes nothing.
    pub fn tiles(&self) -> Tiles {
        self.tiles
    }

    /// Squared Euclidean distances of these queries to the whole gallery: (queries, gallery), row after row.
    ///
    /// # Errors
    /// What reading rows or the adapter reports; [`Error::Usage`] if a number isn't finite.
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
            self.lead_past(&step, distances.words, send, |tile, found| {
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

    /// The `k` nearest rows of the gallery to each of these queries, nearest first, equal distances in the gallery's order;
    /// all rows if the gallery has fewer.
    ///
    /// # Errors
    /// As [`Self::distances`]; [`Error::Usage`] if that are more than [`MAX_K`].
    ///
    /// # Panics
    /// If there are no such queries.
    pub fn nearest(&mut self, queries: Range<usize>, k: usize) -> Result<Vec<Vec<Neighbour>>> {
        let k = k.min(self.gallery.len());
        if k > MAX_K {
            return Err(Error::Usage(format!("{k} nearest rows are asked for; at most {MAX_K} can be had")));
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
                let place = Place { first, count, fresh: first == 0 };
                neighbours.context.write(&neighbours.place, bytemuck::cast_slice(&place.words()));
                nearest.merge.run(neighbours.context)?;
                // A word that comes back tells that the adapter is done, so that tiles don't pile up before it.
                readback.start(neighbours.context, &nearest.distances, 1);
                Ok(())
            };
            self.lead_past(&step, 1, send, |_, _| {})?;
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

    /// Brings a tile of queries to the adapter.
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

    /// Measures from the queries to every tile of the gallery, in order. `send` starts a readback of `words` words behind a
    /// tile's distances, `receive` gets them while the adapter is at a later tile.
    fn lead_past(
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
            place: recorder.import(&self.place),
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

/// The plan from rows to norms.
fn prepare(context: &Context, rows: &Buffer, norms: &Buffer, count: usize, dim: usize) -> gpu::Result<Plan> {
    let mut recorder = Recorder::new(context);
    let call = Norms { rows: recorder.import(rows), norms: recorder.import(norms), count, dim };
    call.record(&mut recorder, "norms");
    recorder.finish()
}

/// The length of rows, if they can be compared and counted.
fn check(queries: &dyn Rows, gallery: &dyn Rows) -> Result<usize> {
    let dim = gallery.dim();
    if queries.dim() != dim {
        return Err(Error::Usage(format!(
            "queries have {} numbers each and the gallery's rows {dim}: both must come from the same model",
            queries.dim()
        )));
    }
    if dim == 0 {
        return Err(Error::Usage("the embeddings have no numbers".to_string()));
    }
    if dim > MAX_DIM {
        return Err(Error::TooLarge(format!("embeddings of {dim} numbers; at most {MAX_DIM} are measured")));
    }
    if gallery.len() >= NOBODY as usize {
        return Err(Error::TooLarge(format!(
            "a gallery of {} rows; at most {} are told apart",
            gallery.len(),
            NOBODY - 1
        )));
    }
    Ok(dim)
}

/// Names a row in messages: by its place, and by its name where it has one.
fn called(what: &str, rows: &dyn Rows, row: usize) -> String {
    let name = rows.name(row).map_or(String::new(), |name| format!(" ({name})"));
    format!("{what} {row}{name}")
}

/// Cuts a range into pieces of `most`; the last one may be shorter.
fn pieces(range: &Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = range.end;
    range.clone().step_by(most).map(move |start| start..end.min(start + most))
}

/// Rows on their way to the adapter.
#[derive(Default)]
struct Staging {
    /// Row by row, as they are read.
    read: Vec<f32>,
    /// Slab by slab, as kernels want them.
    slabs: Vec<f32>,
}

impl Staging {
    /// Reads rows and lays them out for a tile of `count` of them: slab by slab, each row filled up with zeros to what
    /// kernels load, rows that a last tile lacks with whatever was there.
    ///
    /// # Errors
    /// A row that no finite distance leads to; `other` is who it would be measured from.
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
                "{} holds {} at place {}: its distance from {} is not finite",
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
                "is not finite, or not sure to be, in f32"
            } else if square > 0.0 && square < f64::from(f32::MIN_POSITIVE) {
                // Squares that vanish: all distances would be equal.
                "is lost in f32"
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
