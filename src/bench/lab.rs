//! The product lab: times every tile that an adapter can run on the matrix products of ViT-S and ViT-B. Compares a
//! thousand elements of each result with f64 first.

use super::report::{Machine, Roof, Work};
use super::roof::Roofs;
use super::{Options, is_too_large, next, samples};
use crate::cases::numbers::{self, PERIOD};
use crate::cases::tolerance::{self, UNIT};
use crate::cases::{MODELS, TOKENS};
use crate::error::{Error, Result};
use crate::gpu::{self, Buffer, Context, Plan, Recorder, Storage};
use crate::kernels::gemm::tiles::Winner;
use crate::kernels::gemm::{Form, Tile, record_alone};
use crate::observer::Follower;
use crate::rng;
use half::f16;
use rayon::prelude::*;
use serde::Serialize;
use std::fmt::Write;

/// Default number of samples of a tile.
pub const DEFAULT_SAMPLES: usize = 5;

/// Batch sizes.
pub const BATCHES: [usize; 3] = [32, 128, 256];

/// Elements of a result that are checked, besides its corners.
const PLACES: u64 = 1_000;

/// Target duration of all samples of a tile, in seconds. A tile with a longer expected replay is skipped: on a GPU, a
/// watchdog might stop it.
const CPU_SECONDS: f64 = 4.0;
const GPU_SECONDS: f64 = 1.0;

/// A tile this many times slower than the best so far gets one sample only.
const HOPELESS: f64 = 2.0;

/// The results of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The adapter and how it was opened.
    #[serde(flatten)]
    pub machine: Machine,
    /// "timestamps", or "wall clock" on CPU adapters and on adapters without timestamps.
    pub timing: &'static str,
    /// True if every tile of every shape was measured or skipped.
    pub complete: bool,
    /// The adapter's roofs.
    pub roof: Roof,
    /// One shape per model, layer, form and batch size.
    pub shapes: Vec<ShapeReport>,
    /// Number of wrong results.
    pub wrong: usize,
    /// Tiles that are faster than the built-in one over all batch sizes, for the table of tiles.
    #[serde(skip)]
    pub winners: Vec<Winner>,
}

/// A product and the results of its tiles.
#[derive(Debug, Clone, Serialize)]
pub struct ShapeReport {
    /// Model, layer, form and batch size, such as "vit-s qkv nt batch 32".
    pub name: String,
    /// "nt", "nn" or "tn".
    pub form: String,
    /// Batch size.
    pub batch: usize,
    /// Rows of the result, M.
    pub m: usize,
    /// Columns of the result, N.
    pub n: usize,
    /// Length of the sums, K.
    pub k: usize,
    /// Floating-point operations.
    pub flops: f64,
    /// The tile that the engine uses now.
    pub picked: String,
    /// The fastest tile with a correct result; `None` if there is none.
    pub winner: Option<String>,
    /// Tiles in the order of measurement.
    pub tiles: Vec<TileReport>,
}

/// The figures of a tile for a product.
#[derive(Debug, Clone, Serialize)]
pub struct TileReport {
    /// The tile.
    pub tile: String,
    /// Name of the kernel's WGSL file.
    pub kernel: &'static str,
    /// Median of the samples; `None` without samples.
    pub seconds: Option<f64>,
    /// Number of samples.
    pub samples: usize,
    /// 10⁹ operations per second.
    pub gflops: Option<f64>,
    /// The least time that the roofs allow, as a percentage of `seconds`.
    pub percent_of_roof: Option<f64>,
    /// Error of the worst value as a fraction of its tolerance; `None` if nothing was compared or a value isn't finite.
    pub tolerance_used: Option<f64>,
    /// True if a value was wrong. Such a tile never wins.
    pub wrong: bool,
    /// The reason for fewer samples than usual.
    pub note: Option<String>,
}

/// A product of a network.
#[derive(Debug, Clone, PartialEq)]
struct Shape {
    name: String,
    form: Form,
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
}

impl Shape {
    fn flops(&self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64
    }

    /// Returns the two sizes that don't depend on the batch.
    fn layer(&self) -> [usize; 2] {
        self.form.layer(self.m, self.n, self.k)
    }

    /// Returns the name that filters match.
    fn with(&self, tile: Tile) -> String {
        format!("{} {tile}", self.name)
    }

    /// Returns every tile that can compute it on this adapter. The tile in use comes first, so that much slower ones
    /// are noticed at once.
    fn tiles(&self, context: &Context) -> Vec<Tile> {
        let Shape { form, m, n, k, .. } = *self;
        let mut tiles = vec![Tile::pick(form, context, m, n, k)];
        let units = context.fragments().into_iter().flat_map(Tile::fragment_menu);
        for tile in Tile::menu(form, context.family(), context.class()).into_iter().chain(units) {
            // The plain kernel supports f32 only.
            let knows = tile != Tile::Plain || context.storage() == Storage::F32;
            if knows && tile.can(form, m, n, k) && !tiles.contains(&tile) {
                tiles.push(tile);
            }
        }
        tiles
    }
}

/// Returns every shape, the smallest batch first.
fn shapes(batches: &[usize], quick: bool) -> Vec<Shape> {
    let mut all = Vec::new();
    for &batch in batches {
        for model in MODELS {
            let rows = batch * TOKENS;
            for (layer, outputs, inputs) in model.layers() {
                for form in Form::ALL {
                    // Forward, gradient of the input, gradient of the weight.
                    let (m, n, k) = match form {
                        Form::Nt => (rows, outputs, inputs),
                        Form::Nn => (rows, inputs, outputs),
                        Form::Tn => (outputs, inputs, rows),
                    };
                    let name = format!("{} {layer} {form:?} batch {batch}", model.name).to_lowercase();
                    all.push(Shape { name, form, batch, m, n, k });
                }
            }
        }
    }
    if quick {
        all.truncate(Form::ALL.len());
    }
    all
}

/// The measurements of a tile, before the comparison with the roofs.
struct Measured {
    tile: Tile,
    kernel: &'static str,
    work: Work,
    seconds: Vec<f64>,
    /// Error of the worst value as a fraction of its tolerance; infinite if a value is NaN.
    used: Option<f64>,
    note: Option<String>,
}

impl Measured {
    fn is_wrong(&self) -> bool {
        self.used.is_some_and(|used| used > 1.0)
    }

    fn median(&self) -> Option<f64> {
        (!self.seconds.is_empty()).then(|| samples::median(&self.seconds))
    }

    fn report(&self, roof: &Roof) -> TileReport {
        let seconds = self.median();
        TileReport {
            tile: self.tile.to_string(),
            kernel: self.kernel,
            seconds,
            samples: self.seconds.len(),
            gflops: seconds.map(|seconds| self.work.flops / seconds / 1e9),
            percent_of_roof: seconds.map(|seconds| 100.0 * roof.least_seconds(self.work).0 / seconds),
            tolerance_used: self.used.filter(|used| used.is_finite()),
            wrong: self.is_wrong(),
            note: self.note.clone(),
        }
    }
}

/// Returns the fastest tile with a correct result.
fn winner(tiles: &[Measured]) -> Option<&Measured> {
    let right = tiles.iter().filter(|measured| !measured.is_wrong() && !measured.seconds.is_empty());
    right.min_by(|a, b| a.median().unwrap_or(f64::INFINITY).total_cmp(&b.median().unwrap_or(f64::INFINITY)))
}

/// Checks and times every tile that matches the filter, by a name such as
/// "vit-s qkv nt batch 32 tiled 128x128 by 8x8".
///
/// # Errors
/// [`Error::NothingToDo`] if no name matches; those of the adapter and of `observer`. A product that doesn't fit the
/// adapter is skipped with a note.
pub fn run(context: &Context, options: Options<'_>, observer: &dyn Follower<Report>) -> Result<Report> {
    let batches = match options.batch {
        Some(batch) => vec![batch],
        None if options.quick => vec![1],
        None => BATCHES.to_vec(),
    };
    let all = shapes(&batches, options.quick);
    let names: Vec<String> =
        all.iter().flat_map(|shape| shape.tiles(context).into_iter().map(|tile| shape.with(tile))).collect();
    let mut todo: Vec<(Shape, Vec<Tile>)> = Vec::new();
    for shape in all {
        let mut tiles = shape.tiles(context);
        tiles.retain(|tile| shape.with(*tile).contains(options.filter));
        if !tiles.is_empty() {
            todo.push((shape, tiles));
        }
    }
    if todo.is_empty() {
        return Err(Error::no_row(options.filter, &names));
    }
    let of = todo.iter().map(|(_, tiles)| tiles.len()).sum();
    next(observer, 0, of, "roofs")?;
    let mut bench = Bench { context, samples: options.samples(DEFAULT_SAMPLES), rates: Vec::new() };
    let mut roofs = Roofs::find(context, options.quick)?;
    let mut found: Vec<(&Shape, Vec<Measured>)> = Vec::new();
    let mut done = 0;
    for (shape, tiles) in &todo {
        roofs.sample(context, 1)?;
        let mut measured = Vec::new();
        let operands = match Operands::new(context, shape) {
            Err(error) if is_too_large(&error) => Err(error.to_string()),
            operands => Ok(operands?),
        };
        for &tile in tiles {
            next(observer, done, of, &shape.with(tile))?;
            if options.is_over() {
                break;
            }
            let best = winner(&measured).and_then(Measured::median);
            measured.push(match &operands {
                Ok(operands) => bench.measure(shape, operands, tile, best)?,
                Err(reason) => left_out(shape, tile, reason.clone()),
            });
            done += 1;
        }
        found.push((shape, measured));
        observer.event(report(context, &found, &roofs, done == of))?;
        if options.is_over() {
            break;
        }
    }
    Ok(report(context, &found, &roofs, done == of))
}

fn report(context: &Context, found: &[(&Shape, Vec<Measured>)], roofs: &Roofs, complete: bool) -> Report {
    let roof = roofs.report();
    let shapes = found.iter().map(|(shape, tiles)| {
        let Shape { form, m, n, k, .. } = **shape;
        ShapeReport {
            name: shape.name.clone(),
            form: format!("{form:?}").to_lowercase(),
            batch: shape.batch,
            m,
            n,
            k,
            flops: shape.flops(),
            picked: Tile::pick(form, context, m, n, k).to_string(),
            winner: winner(tiles).map(|tile| tile.tile.to_string()),
            tiles: tiles.iter().map(|tile| tile.report(&roof)).collect(),
        }
    });
    Report {
        machine: Machine::of(context),
        timing: if context.times_itself() { "timestamps" } else { "wall clock" },
        complete,
        shapes: shapes.collect(),
        wrong: found.iter().flat_map(|(_, tiles)| tiles).filter(|tile| tile.is_wrong()).count(),
        winners: winners(context, found),
        roof,
    }
}

fn left_out(shape: &Shape, tile: Tile, reason: String) -> Measured {
    let work = Work { flops: shape.flops(), fragment_flops: 0.0, bytes: 0.0 };
    Measured {
        tile,
        kernel: "",
        work,
        seconds: Vec::new(),
        used: None,
        note: Some(format!("left out: {reason}")),
    }
}

/// Returns the tile that the table of tiles should name for each layer and form, see [`fastest`].
fn winners(context: &Context, found: &[(&Shape, Vec<Measured>)]) -> Vec<Winner> {
    let mut winners: Vec<Winner> = Vec::new();
    let mut seen = Vec::new();
    for (shape, _) in found {
        let layer = (shape.form, shape.layer());
        if seen.contains(&layer) {
            continue;
        }
        seen.push(layer);
        let (form, sizes) = layer;
        let units: Vec<Tile> = context.fragments().into_iter().flat_map(Tile::fragment_menu).collect();
        // An entry in the table would keep other adapters of the class from using their matrix units.
        if context.storage() != Storage::F32 && units.is_empty() {
            continue;
        }
        let alike = found.iter().filter(|(other, _)| (other.form, other.layer()) == layer);
        let batches: Vec<(Tile, &[Measured])> = alike
            .map(|(shape, tiles)| {
                let Shape { m, n, k, .. } = **shape;
                (Tile::untuned(form, context, m, n, k), &tiles[..])
            })
            .collect();
        let mut menu = Tile::menu(form, context.family(), context.class());
        menu.retain(|tile| *tile != Tile::Plain);
        menu.extend(units);
        if let Some(tile) = fastest(&batches, &menu) {
            winners.push(Winner { form, sizes, storage: context.storage(), tile });
        }
    }
    winners
}

/// Returns the tile of the menu that is fastest over all batch sizes, by the mean of its time relative to the best
/// tile. `batches` holds the tile in use and the measurements of each batch size. Returns `None` if a tile in use
/// wasn't measured, or if the tiles in use are as fast apart from noise.
fn fastest(batches: &[(Tile, &[Measured])], menu: &[Tile]) -> Option<Tile> {
    const GAIN: f64 = 0.97;
    let find = |tiles: &'_ [Measured], tile: Tile| tiles.iter().position(|other| other.tile == tile);
    if batches.iter().any(|(today, tiles)| find(tiles, *today).is_none()) {
        return None;
    }
    // `None` unless the tile was correct and timed with every batch.
    let mean = |tile_of: &dyn Fn(Tile) -> Tile| -> Option<f64> {
        let ratios = batches.iter().map(|(today, tiles)| {
            let tile = &tiles[find(tiles, tile_of(*today))?];
            let seconds = tile.median().filter(|_| !tile.is_wrong())?;
            Some(seconds / winner(tiles)?.median()?)
        });
        Some(ratios.sum::<Option<f64>>()? / batches.len() as f64)
    };
    let best = menu.iter().filter_map(|&tile| Some((tile, mean(&|_| tile)?)));
    let (tile, ratio) = best.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
    mean(&|today| today).is_none_or(|today| ratio < GAIN * today).then_some(tile)
}

/// The state of a run between tiles.
struct Bench<'c> {
    context: &'c Context,
    samples: usize,
    /// Seconds per operation of a tile with the last shape of a form.
    rates: Vec<(Form, Tile, f64)>,
}

impl Bench<'_> {
    /// Checks and times a tile. `best` is the time of the fastest tile so far with this shape.
    fn measure(
        &mut self,
        shape: &Shape,
        operands: &Operands,
        tile: Tile,
        best: Option<f64>,
    ) -> Result<Measured> {
        let context = self.context;
        let most = if context.is_cpu() { CPU_SECONDS } else { GPU_SECONDS };
        let known = self.rates.iter_mut().find(|(form, other, _)| (*form, *other) == (shape.form, tile));
        let expected = known.as_ref().map_or(0.0, |(.., rate)| rate * shape.flops());
        if expected > most {
            return Ok(left_out(shape, tile, format!("a replay would take about {expected:.0} s")));
        }
        let plan = match operands.record(context, shape, tile) {
            Err(error) if is_too_large(&error) => return Ok(left_out(shape, tile, error.to_string())),
            plan => plan?,
        };
        // NaN reveals elements that a tile doesn't write.
        context.fill(&operands.c, &operands.unwritten);
        // The first replay includes compilation.
        plan.time(context, 1)?;
        let used = operands.check(context, shape, &plan)?;
        let first = plan.time_on_adapter(context, 1)?;
        let rate = first / shape.flops();
        match known {
            Some((.., known)) => *known = rate,
            None => self.rates.push((shape.form, tile, rate)),
        }
        let mut measured = Measured {
            tile,
            kernel: plan.dispatches[0].kernel.file.name,
            work: Work::of(&plan),
            seconds: vec![first],
            used: Some(used),
            note: None,
        };
        if measured.is_wrong() {
            return Ok(measured);
        }
        if best.is_some_and(|best| first > HOPELESS * best) {
            measured.note = Some("one sample: much slower than the best".to_string());
            return Ok(measured);
        }
        let count = self.samples.min((most / first) as usize);
        if count < self.samples {
            measured.note = Some(format!("{} samples: a replay takes {first:.1} s", count.max(1)));
        }
        if count > 0 {
            let replays = samples::replays_of(first);
            let again = (0..count).map(|_| plan.time_on_adapter(context, replays));
            measured.seconds = again.collect::<gpu::Result<_>>()?;
        }
        Ok(measured)
    }
}

/// Operands and result of a product on the adapter, and the expected values.
struct Operands {
    a: Buffer,
    b: Buffer,
    c: Buffer,
    /// NaN, to fill `c` before a tile writes it.
    unwritten: Buffer,
    /// Storage of the operands.
    storage: Storage,
    /// Storage of the result: that of the operands, but f32 for TN, which computes gradients of weights.
    result: Storage,
    /// Index, exact value and sum of magnitudes of each checked element.
    wanted: Vec<(usize, f64, f64)>,
}

impl Operands {
    fn new(context: &Context, shape: &Shape) -> Result<Operands> {
        let Shape { form, m, n, k, .. } = *shape;
        let storage = context.storage();
        let result = if form == Form::Tn { Storage::F32 } else { storage };
        let (a, b) = (1, 2);
        let nan = match result {
            Storage::F32 => f32::NAN,
            Storage::F16 | Storage::Packed => f32::from_bits(0x7e00_7e00),
        };
        Ok(Operands {
            a: numbers::tensor(context, "a", a, m * k, storage)?,
            b: numbers::tensor(context, "b", b, n * k, storage)?,
            c: context.buffer("c", numbers::words(m * n, result))?,
            unwritten: context.upload("unwritten", &vec![nan; PERIOD])?,
            storage,
            result,
            wanted: exact(shape, &[a, b].map(|stream| numbers::period(stream, PERIOD, storage))),
        })
    }

    fn record(&self, context: &Context, shape: &Shape, tile: Tile) -> Result<Plan> {
        let Shape { form, m, n, k, .. } = *shape;
        let mut recorder = Recorder::new(context);
        let [a, b] = [&self.a, &self.b].map(|operand| recorder.import_as(operand, self.storage));
        let c = recorder.import_as(&self.c, self.result);
        record_alone(&mut recorder, form, [a, b, c], [m, n, k], tile);
        Ok(recorder.finish()?)
    }

    /// Returns the error of the worst value as a fraction of its tolerance.
    fn check(&self, context: &Context, shape: &Shape, plan: &Plan) -> Result<f64> {
        let places: Vec<usize> =
            self.wanted.iter().map(|(place, ..)| numbers::words(*place, self.result)).collect();
        let words = context.read_words(&self.c, &places)?;
        let found = words.into_iter().zip(&self.wanted).map(|(word, (place, ..))| match self.result {
            Storage::F32 => f64::from(f32::from_bits(word)),
            Storage::F16 | Storage::Packed => f16::from_bits((word >> (16 * (place % 2))) as u16).to_f64(),
        });
        Ok(tolerance_used(shape.k, Work::of(plan).fragment_flops > 0.0, self.result, found, &self.wanted))
    }
}

/// Returns the error of results as a fraction of the tolerance, for the worst value or for the mean square, whichever
/// is larger.
fn tolerance_used(
    k: usize,
    fragments: bool,
    result: Storage,
    found: impl Iterator<Item = f64>,
    wanted: &[(usize, f64, f64)],
) -> f64 {
    // Matrix units may truncate instead of rounding: the bound of their kernel's header. Others have the tests' bound.
    let units = if fragments { 2.0 * (k + 1) as f64 } else { tolerance::gemm(k).c };
    let (mut worst, mut errors, mut squares): (f64, f64, f64) = (0.0, 0.0, 0.0);
    for (found, &(_, exact, magnitude)) in found.zip(wanted) {
        let mut bound = units * UNIT * magnitude;
        if result != Storage::F32 {
            // The result may be rounded to either neighbour.
            bound += exact.abs().max(2f64.powi(-14)) * 2f64.powi(-10);
        }
        let error = (found - exact).abs();
        worst = worst.max(if error.is_nan() { f64::INFINITY } else { error / bound });
        errors += error * error;
        squares += exact * exact;
    }
    // Sums of k numbers of either sign have a relative mean square error of k·2⁻⁴⁸/6 with rounding, and four times
    // as much plus a bias with truncation.
    let mean = match (result, fragments) {
        (Storage::F32, false) => tolerance::gemm(k).nmse.max(k as f64 * UNIT * UNIT),
        (Storage::F32, true) => 1e-8,
        _ => 1e-6,
    };
    let mean_used = errors / squares / mean;
    worst.max(if mean_used.is_nan() { f64::INFINITY } else { mean_used })
}

/// Returns index, exact value and sum of magnitudes of the checked elements, from the operands' periods.
fn exact(shape: &Shape, [a, b]: &[Vec<f32>; 2]) -> Vec<(usize, f64, f64)> {
    let Shape { form, m, n, k, .. } = *shape;
    let drawn = (0..PLACES).map(|i| {
        let [row, column] = [(0, m), (1, n)].map(|(stream, below)| rng::bits(5, stream, i) as usize % below);
        row * n + column
    });
    let mut places: Vec<usize> = drawn.chain([0, n - 1, (m - 1) * n, m * n - 1]).collect();
    places.sort_unstable();
    places.dedup();
    let value = |place: usize| {
        let (row, column) = (place / n, place % n);
        let terms = (0..k).map(|i| {
            let (left, right) = match form {
                Form::Nt => (row * k + i, column * k + i),
                Form::Nn => (row * k + i, i * n + column),
                Form::Tn => (i * m + row, i * n + column),
            };
            f64::from(a[left % PERIOD]) * f64::from(b[right % PERIOD])
        });
        let (sum, magnitude) =
            terms.fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + term.abs()));
        (place, sum, magnitude)
    };
    places.into_par_iter().map(value).collect()
}

impl Report {
    /// Returns a table of winners for the terminal, then skipped and wrong tiles.
    pub fn table(&self) -> String {
        let Report { machine, timing, complete, roof, shapes, wrong, .. } = self;
        let width = shapes.iter().map(|shape| shape.name.chars().count()).max().unwrap_or(0).max(5);
        let longest = |of: &dyn Fn(&ShapeReport) -> usize| shapes.iter().map(of).max().unwrap_or(0).max(6);
        let tile = longest(&|shape| shape.winner.as_ref().map_or(0, String::len));
        let mut text = format!("{machine}; by {timing}\nroofs: {roof}\n");
        // Writing to a string doesn't fail.
        let _ = writeln!(
            text,
            "{:<width$} {:>18} {:<tile$} {:>10} {:>9} {:>9}  tile in use",
            "shape", "m x n x k", "winner", "ms", "GFLOP/s", "% of roof"
        );
        for shape in shapes {
            let size = format!("{}x{}x{}", shape.m, shape.n, shape.k);
            let of = |name: &str| shape.tiles.iter().find(|tile| tile.tile == name);
            let Some(best) = shape.winner.as_deref().and_then(of) else {
                let _ = writeln!(text, "{:<width$} {size:>18} none", shape.name);
                continue;
            };
            let seconds = best.seconds.unwrap_or(f64::NAN);
            let today = match of(&shape.picked).and_then(|tile| tile.seconds) {
                _ if best.tile == shape.picked => "the same".to_string(),
                Some(today) => format!("{}: {:.2} times as long", shape.picked, today / seconds),
                None => format!("{}: not timed", shape.picked),
            };
            let _ = writeln!(
                text,
                "{:<width$} {size:>18} {:<tile$} {:>10.3} {:>9.1} {:>9.1}  {today}",
                shape.name,
                best.tile,
                1e3 * seconds,
                best.gflops.unwrap_or(f64::NAN),
                best.percent_of_roof.unwrap_or(f64::NAN),
            );
        }
        for shape in shapes {
            for tile in &shape.tiles {
                let name = format!("{} {}", shape.name, tile.tile);
                if tile.wrong {
                    let used =
                        tile.tolerance_used.map_or("no number".to_string(), |used| format!("{used:.2}"));
                    let _ = writeln!(text, "WRONG {name}: {used} of the tolerance");
                } else if let Some(note) = tile.note.as_ref().filter(|_| tile.seconds.is_none()) {
                    let _ = writeln!(text, "{name}: {note}");
                }
            }
        }
        if !complete {
            text.push_str("the time was up before the last tile\n");
        }
        if *wrong > 0 {
            let _ = writeln!(text, "{wrong} wrong");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{roof, work};

    #[test]
    fn every_layer_has_its_products_in_every_batch() {
        let all = shapes(&BATCHES, false);
        assert_eq!(all.len(), 2 * 4 * 3 * 3);
        let names: std::collections::BTreeSet<&str> = all.iter().map(|shape| &*shape.name).collect();
        assert_eq!(names.len(), all.len());
        let find = |name: &str| all.iter().find(|shape| shape.name == name).map(|s| [s.m, s.n, s.k]);
        assert_eq!(find("vit-b fc2 nt batch 256"), Some([256 * 197, 768, 3072]));
        assert_eq!(find("vit-s fc1 nn batch 32"), Some([32 * 197, 384, 1536]));
        assert_eq!(find("vit-s qkv tn batch 128"), Some([1152, 384, 128 * 197]));
    }

    #[test]
    fn a_wrong_value_exceeds_its_tolerance() {
        let shape = Shape { name: String::new(), form: Form::Tn, batch: 1, m: 40, n: 52, k: 197 };
        let operands = [1, 2].map(|stream| numbers::period(stream, PERIOD, Storage::F32));
        let wanted = exact(&shape, &operands);
        let corners = [0, 51, 39 * 52, 40 * 52 - 1];
        assert!(corners.iter().all(|corner| wanted.iter().any(|(place, ..)| place == corner)));
        // Element (0, 51) by hand.
        let (place, value, _) = *wanted.iter().find(|(place, ..)| *place == 51).unwrap();
        let sum: f64 =
            (0..197).map(|k| f64::from(operands[0][k * 40]) * f64::from(operands[1][k * 52 + 51])).sum();
        assert!(place == 51 && (value - sum).abs() < 1e-12);
        let used = |change: &dyn Fn(usize, f64) -> f64, fragments: bool, storage: Storage| {
            let found = wanted.iter().map(|&(place, exact, _)| change(place, exact));
            tolerance_used(shape.k, fragments, storage, found, &wanted)
        };
        let rounded = |_: usize, exact: f64| f64::from(exact as f32);
        let halved = |_: usize, exact: f64| f16::from_f64(exact).to_f64();
        for fragments in [false, true] {
            assert!(used(&rounded, fragments, Storage::F32) < 0.1);
            assert!(used(&halved, fragments, Storage::F32) > 1.0);
            assert!(used(&halved, fragments, Storage::F16) < 1.0);
            for storage in [Storage::F32, Storage::F16] {
                let one_off = |place: usize, exact: f64| if place == 51 { exact + 0.1 } else { exact };
                let unwritten = |place: usize, exact: f64| if place == 0 { f64::NAN } else { exact };
                assert!(used(&one_off, fragments, storage) > 1.0, "{fragments} {storage:?}");
                assert_eq!(used(&unwritten, fragments, storage), f64::INFINITY);
            }
        }
    }

    fn tile(tile: Tile, seconds: &[f64], used: f64) -> Measured {
        let (work, seconds) = (work(1e9, 1e6), seconds.to_vec());
        Measured { tile, kernel: "gemm", work, seconds, used: Some(used), note: None }
    }

    #[test]
    fn the_table_gets_the_fastest_tile_over_all_batches() {
        let [one, two, three] = [4, 8, 16].map(|lanes| Tile::Subgroup { lanes, rows: 32, quads: 1 });
        let menu = [one, two, three];
        let small = [tile(one, &[1.0], 0.5), tile(two, &[1.2], 0.5), tile(three, &[0.1], 9.0)];
        let large = [tile(one, &[4.0], 0.5), tile(two, &[2.0], 0.5), tile(three, &[1.9], 0.5)];
        // Relative to the best: 1 and 2.1, against 1.2 and 1.05. The third was wrong once.
        assert_eq!(fastest(&[(one, &small), (one, &large)], &menu), Some(two));
        assert_eq!(fastest(&[(one, &small), (one, &large)], &menu[..1]), None);
        // No tile beats the one in use with each batch.
        assert_eq!(fastest(&[(one, &small), (two, &large)], &menu), None);
        assert_eq!(fastest(&[(one, &small)], &menu), None);
        // No tile replaces one that wasn't measured. One that was wrong or has no time is replaced.
        assert_eq!(fastest(&[(Tile::Plain, &small)], &menu), None);
        // Matrix units are compared like any tile.
        let units = Tile::fragment_menu(crate::gpu::Fragments { side: 16, lanes: 32 })[0];
        let with_units = [tile(one, &[2.0], 0.5), tile(two, &[1.8], 0.5), tile(units, &[1.0], 0.5)];
        assert_eq!(fastest(&[(units, &with_units)], &[one, two, units]), None);
        assert_eq!(fastest(&[(one, &with_units)], &[one, two, units]), Some(units));
        assert_eq!(fastest(&[(three, &small)], &menu), Some(one));
        assert_eq!(fastest(&[(two, &[tile(two, &[], 0.5), tile(one, &[9.0], 0.5)])], &menu), Some(one));
    }

    #[test]
    fn a_wrong_tile_never_wins() {
        let other = Tile::Subgroup { lanes: 8, rows: 32, quads: 1 };
        let tiles = [tile(other, &[0.01], f64::INFINITY), tile(Tile::Plain, &[0.04, 0.02, 0.03], 0.5)];
        assert_eq!(winner(&tiles).map(|tile| tile.tile), Some(Tile::Plain));
        assert!(winner(&tiles[..1]).is_none());
        let report = tiles[1].report(&roof());
        assert_eq!((report.seconds, report.samples, report.wrong), (Some(0.03), 3, false));
        assert!((report.percent_of_roof.unwrap() - 100.0 / 3.0).abs() < 1e-9);
        assert!(tiles[0].report(&roof()).wrong && tiles[0].report(&roof()).tolerance_used.is_none());
    }
}
