//! Cases of gemm, with every form, tile and epilogue.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, TOKENS, TimedCases, tolerance};
use crate::gpu::{Recorder, Storage};
use crate::kernels::gemm::{
    BIAS, DERIVATIVES, Derivative, EPILOGUES, Epilogue, Form, Nn, Nt, Operations, Tile, Tn,
};
use crate::reference::gemm as reference;
use crate::shape::Activation;

/// Records a product with `tile`, or with the adapter's choice.
fn record(recorder: &mut Recorder<'_>, tile: Option<Tile>, product: &dyn Product) {
    match tile {
        None => product.choose(recorder),
        Some(tile) => product.with(recorder, tile),
    }
}

/// A product of any form.
trait Product {
    fn choose(&self, recorder: &mut Recorder<'_>);
    fn with(&self, recorder: &mut Recorder<'_>, tile: Tile);
}

macro_rules! products {
    ($($form:ty)*) => {
        $(impl Product for $form {
            fn choose(&self, recorder: &mut Recorder<'_>) {
                self.record(recorder, "gemm");
            }

            fn with(&self, recorder: &mut Recorder<'_>, tile: Tile) {
                self.record_with(recorder, "gemm", tile);
            }
        })*
    };
}

products!(Nt Nn Tn);

/// Additions in a sum of `k` products, for [`tolerance::gemm`]. Matrix units may truncate sums instead of rounding them,
/// which doubles the error.
fn steps(tile: Option<Tile>, k: usize) -> usize {
    if matches!(tile, Some(Tile::Cooperative { .. })) { 4 * k } else { k }
}

/// B, scaled so that outputs have about unit size, as in a network. Activations are not linear there.
fn unit<'n>(len: usize, k: usize) -> Numbers<'n> {
    drawn(2, len).map(move |v| v * (1.0 / (k as f32).sqrt()))
}

/// Records A·Bᵀ of a (m, k) and n rows of B.
pub fn nt<'a>(run: &mut Run<'_>, a: impl Into<Numbers<'a>>, n: usize, k: usize, operations: Operations, tile: Option<Tile>) {
    let (a, b) = (run.quads("a", a), run.quads("b", unit(n * k, k)));
    let m = a.tensor.len / k;
    let c = run.quads_output("c", m * n);
    let bias = operations.bias.then(|| run.operand("bias", drawn(3, n).map(|v| 0.5 * v)));
    let pre = operations.pre.then(|| run.quads_output("pre", m * n));
    let scale = operations.scale.then(|| run.operand("scale", drawn(4, n)));
    let residual = operations.residual.then(|| run.quads("residual", drawn(5, m * n)));
    let activation = operations.activation;
    let epilogue = Epilogue {
        bias: bias.as_ref().map(|bias| bias.tensor),
        pre,
        activation,
        scale: scale.as_ref().map(|scale| scale.tensor),
        residual: residual.as_ref().map(|residual| residual.tensor),
    };
    record(&mut run.recorder, tile, &Nt { a: a.tensor, b: b.tensor, c, m, n, k, epilogue });
    let (bias, scale, residual) = (bias.as_deref(), scale.as_deref(), residual.as_deref());
    let exact = reference::Nt { a: &a, b: &b, n, k, bias, activation, scale, residual };
    let allowed = tolerance::gemm(steps(tile, k));
    run.sampled("c", c, allowed, |i| exact.at(i / n, i % n));
    if let Some(pre) = pre {
        run.sampled("pre", pre, allowed, |i| exact.pre(i / n, i % n));
    }
}

/// Records A·B with an activation's derivative and a residual.
pub fn nn(
    run: &mut Run<'_>,
    [m, n, k]: [usize; 3],
    (activation, has_residual): Derivative,
    tile: Option<Tile>,
) {
    let (a, b) = (run.quads("a", drawn(1, m * k)), run.quads("b", unit(k * n, k)));
    let c = run.quads_output("c", m * n);
    let kept = activation.map(|activation| (activation, run.quads("kept", drawn(3, m * n))));
    let residual = has_residual.then(|| run.quads("residual", drawn(4, m * n)));
    let product = Nn {
        a: a.tensor,
        b: b.tensor,
        c,
        m,
        n,
        k,
        derivative: kept.as_ref().map(|(activation, kept)| (*activation, kept.tensor)),
        residual: residual.as_ref().map(|residual| residual.tensor),
    };
    record(&mut run.recorder, tile, &product);
    let derivative = kept.as_ref().map(|(activation, kept)| (*activation, &kept[..]));
    let exact = reference::Nn { a: &a, b: &b, n, k, derivative, residual: residual.as_deref() };
    run.sampled("c", c, tolerance::gemm(steps(tile, k)), |i| exact.at(i / n, i % n));
}

/// Records Aᵀ·B, and the column sums of A.
pub fn tn(run: &mut Run<'_>, [m, n, k]: [usize; 3], with_sum: bool, tile: Option<Tile>) {
    let (a, b) = (run.quads("a", drawn(1, k * m)), run.quads("b", drawn(2, k * n)));
    let c = run.output("c", m * n);
    let column_sum = with_sum.then(|| run.output("column_sum", m));
    record(&mut run.recorder, tile, &Tn { a: a.tensor, b: b.tensor, c, column_sum, m, n, k });
    let exact = reference::Tn { a: &a, b: &b, m, n, k };
    run.sampled("c", c, tolerance::gemm(steps(tile, k)), |i| exact.at(i / n, i % n));
    if let Some(sum) = column_sum {
        run.all("column_sum", sum, tolerance::gemm(k), || (0..m).map(|m| exact.column_sum(m)));
    }
}

/// Two shapes: one that ends shortly after a tile, and one with a single row or column. The depth of both ends within a
/// step.
fn shapes(form: Form, tile: Tile) -> [[usize; 3]; 2] {
    let [rows, columns] = match tile {
        Tile::Plain => return [[7, 11, 13], [1, 1, 1]],
        Tile::Tiled { rows, columns, .. } | Tile::Cooperative { rows, columns, .. } => [rows, columns],
        Tile::Subgroup { lanes, rows, quads } => [rows, 4 * lanes * quads],
    }
    .map(|side| side as usize);
    // A step of matrix units is twice as long.
    let depth = if matches!(tile, Tile::Cooperative { .. }) { 64 } else { 0 };
    match form {
        Form::Nt | Form::Nn => [[rows + 1, columns + 4, depth + 20], [1, 4, 4]],
        Form::Tn => [[rows + 4, columns + 4, depth + 17], [4, 4, 1]],
    }
}

/// Adds a case for every storage. Adds f32 alone if the tile has nothing else. On software drivers, where compiling
/// takes long, other storages are added if `in_f16`.
fn add(
    list: &mut List,
    tile: Tile,
    in_f16: bool,
    variant: &str,
    [m, n, k]: [usize; 3],
    record: impl Fn(&mut Run<'_>) + 'static,
) {
    let shape = format!("{m}x{n}x{k}");
    if matches!(tile, Tile::Cooperative { .. }) {
        list.add_in(Storage::F16, variant, &shape, record);
    } else if tile == Tile::Plain || (list.is_cpu && !in_f16) {
        list.add_in(Storage::F32, variant, &shape, record);
    } else {
        list.add_stored(variant, &shape, record);
    }
}

fn quick_nt(list: &mut List, tile: Tile, shape: [usize; 3], (name, operations): (&str, Operations), every: bool) {
    let whole = operations.pre && operations.residual;
    let [m, n, k] = shape;
    add(list, tile, whole == every, &format!("nt {tile} {name}"), shape, move |run| {
        nt(run, drawn(1, m * k), n, k, operations, Some(tile));
    });
}

fn quick(list: &mut List) {
    for form in Form::ALL {
        let mut menu = Tile::every(form, list.family);
        menu.extend(list.matrix_units.into_iter().flat_map(Tile::fragment_menu));
        for (i, &tile) in menu.iter().enumerate() {
            let [large, small] = shapes(form, tile);
            // A software driver takes a second to compile a large tile. There the smallest of each kind, which are the
            // last, get all epilogues; the others get none, and in f32 all at once.
            let next = menu.get(i + 1).map(std::mem::discriminant);
            let every = !list.is_cpu || next != Some(std::mem::discriminant(&tile));
            match form {
                Form::Nt => {
                    let [alone, .., whole] = EPILOGUES;
                    let epilogues = if every { EPILOGUES.to_vec() } else { vec![alone, whole] };
                    epilogues.into_iter().for_each(|epilogue| quick_nt(list, tile, large, epilogue, every));
                    quick_nt(list, tile, small, whole, every);
                }
                Form::Nn => {
                    let [alone, .., whole] = DERIVATIVES;
                    let mut add = |shape, (name, derivative): (&str, Derivative)| {
                        let is_whole = derivative.0.is_some() && derivative.1;
                        add(list, tile, is_whole == every, &format!("nn {tile} {name}"), shape, move |run| {
                            nn(run, shape, derivative, Some(tile));
                        });
                    };
                    let derivatives = if every { DERIVATIVES.to_vec() } else { vec![alone, whole] };
                    derivatives.into_iter().for_each(|derivative| add(large, derivative));
                    add(small, whole);
                }
                Form::Tn => {
                    // The last shape is long enough to be cut into slices.
                    for (shape, sum) in [(large, true), (large, false), (small, true), ([4, 8, 1029], true)] {
                        let name = if sum { "column sums" } else { "alone" };
                        add(list, tile, sum, &format!("tn {tile} {name}"), shape, move |run| {
                            tn(run, shape, sum, Some(tile));
                        });
                    }
                }
            }
        }
    }
}

pub(super) fn list(list: &mut List) {
    quick(list);
    let (family, class) = (list.family, list.class);
    // The plain tile, the adapter's choice, and the tiles that the adapter can run: those of every class, for large
    // products those of its own class.
    let tiles = move |form: Form, [m, n, k]: [usize; 3]| {
        let mut tiles = match form.in_quads(m, n, k) {
            false => Vec::new(),
            true if m * n > 40_000 => Tile::menu(form, family, class),
            true => Tile::every(form, family),
        };
        tiles.retain(|tile| *tile != Tile::Plain);
        [Some(Tile::Plain)].into_iter().chain(tiles.into_iter().map(Some)).chain([None]).collect::<Vec<_>>()
    };
    let mut full = |samples: usize, shape: [usize; 3], (name, operations): (&str, Operations)| {
        let [m, n, k] = shape;
        list.full_ways(samples, format!("nt {shape:?} {name}"), tiles(Form::Nt, shape), move |run, tile| {
            nt(run, drawn(1, m * k), n, k, operations, tile);
        });
    };
    let [alone, bias, gelu, _, residual, scale, ..] = EPILOGUES;
    // One, and primes.
    for shape in [
        [1, 1, 1],
        [1, 1, 4],
        [1, 13, 20],
        [11, 1, 28],
        [2, 3, 5],
        [7, 11, 13],
        [13, 7, 44],
        [61, 67, 71],
        [127, 3, 4],
    ] {
        full(usize::MAX, shape, alone);
    }
    for tile in [8, 16, 32, 64, 128] {
        for shape in [[tile - 1, tile + 1, tile], [tile + 1, tile - 1, tile - 4], [tile, tile, tile + 4]] {
            full(usize::MAX, shape, bias);
        }
    }
    // Depths around the tiled family's step of 16, and one that is not a multiple of 4.
    [12, 16, 20, 17].into_iter().for_each(|k| full(usize::MAX, [33, 35, k], bias));
    EPILOGUES.into_iter().for_each(|epilogue| full(usize::MAX, [37, 70, 24], epilogue));
    // The shapes of ViT-B.
    for (n, k, epilogue) in [(2304, 768, bias), (768, 768, scale), (3072, 768, gelu), (768, 3072, residual)] {
        full(4000, [197, n, k], epilogue);
    }

    let mut full = |samples: usize, shape: [usize; 3], derivative: (Option<Activation>, bool)| {
        list.full_ways(samples, format!("nn {shape:?} {derivative:?}"), tiles(Form::Nn, shape), move |run, tile| {
            nn(run, shape, derivative, tile);
        });
    };
    const BACKWARD: [[usize; 3]; 9] = [
        [1, 1, 1],
        [1, 4, 4],
        [4, 1, 4],
        [4, 4, 1],
        [2, 3, 5],
        [13, 20, 28],
        [20, 28, 13],
        [28, 13, 20],
        [61, 67, 71],
    ];
    BACKWARD.into_iter().for_each(|shape| full(usize::MAX, shape, (None, false)));
    for tile in [8, 16, 32, 64, 128] {
        for shape in [[tile - 1, tile + 4, tile], [tile + 1, tile - 4, tile - 4], [tile, tile, tile + 4]] {
            full(usize::MAX, shape, (None, false));
        }
    }
    [4, 12, 16, 20].into_iter().for_each(|k| full(usize::MAX, [33, 36, k], (None, false)));
    for (_, derivative) in &DERIVATIVES[1..] {
        full(usize::MAX, [37, 72, 24], *derivative);
    }
    // The shapes of two images of ViT-S: dX of fc2 with GELU, dX of qkv.
    full(4000, [2 * 257, 1536, 384], (Some(Activation::Gelu), false));
    full(4000, [2 * 257, 384, 1152], (None, false));

    let mut full = |samples: usize, shape: [usize; 3]| {
        let tiles = tiles(Form::Tn, shape).into_iter().map(|tile| (tile, true));
        // Column sums must not change the product.
        let ways = tiles.chain([(None, false)]);
        list.full_ways(samples, format!("tn {shape:?}"), ways, move |run, (tile, sum)| tn(run, shape, sum, tile));
    };
    BACKWARD.into_iter().for_each(|shape| full(usize::MAX, shape));
    for tile in [8, 16, 32, 64, 128] {
        for shape in [[tile - 4, tile + 4, tile - 1], [tile + 4, tile - 4, tile + 1], [tile, tile, tile]] {
            full(usize::MAX, shape);
        }
    }
    // Depths around the tiled family's step of 16.
    [1, 3, 4, 15, 16, 17, 31, 33].into_iter().for_each(|k| full(usize::MAX, [36, 40, k]));
    // Long sums of few outputs, which are cut into slices: with a short last slice, and with the most slices.
    full(usize::MAX, [36, 40, 1029]);
    full(usize::MAX, [12, 4, 8203]);
    // The shapes of ViT-S: dW of the projection and of fc1.
    full(2000, [384, 384, 8 * 257]);
    full(2000, [1536, 384, 2 * 257]);
}

pub(super) fn time(timed: &mut TimedCases<'_>) {
    let count = timed.batch * TOKENS;
    for (layer, n, k) in timed.model.layers().into_iter().take(if timed.quick { 1 } else { 4 }) {
        let activation = (layer == "fc1").then_some(Activation::Gelu);
        let operations = Operations { activation, residual: matches!(layer, "proj" | "fc2"), ..BIAS };
        timed.add(layer, move |run| nt(run, drawn(1, count * k), n, k, operations, None));
        // The backward pass of the same layer. The input gradient of fc2 passes the activation before it.
        let derivative = ((k > n).then_some(Activation::Gelu), false);
        timed.add(&format!("{layer} input gradient"), move |run| nn(run, [count, k, n], derivative, None));
        timed.add(&format!("{layer} weight gradient"), move |run| tn(run, [n, k, count], true, None));
    }
}
