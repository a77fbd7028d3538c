//! Cases of matrix products: gemm in every form, tile and epilogue, patch_embed, part_linear.

use super::cases::{Expected, List};
use super::guard::Guarded;
use super::random::{normal, sample, scaled};
use super::tolerance;
use crate::gpu::{Family, Storage};
use crate::kernels::gemm::{COOPERATIVE_TILE, Epilogue, Form, Nn, Nt, Tile, Tn};
use crate::kernels::{part_linear, patch_embed};
use crate::reference::gemm as reference;
use crate::reference::part_linear::PartLinear;
use crate::reference::patch_embed::PatchEmbed;
use crate::shape::{Activation, ImageSize};

/// Outputs of a product that are compared at most.
const MOST: usize = 2000;

/// What stands behind a product.
#[derive(Debug, Clone, Copy)]
struct Switches {
    bias: bool,
    pre: bool,
    activation: Option<Activation>,
    scale: bool,
    residual: bool,
}

const NONE: Switches = Switches { bias: false, pre: false, activation: None, scale: false, residual: false };
const BIAS: Switches = Switches { bias: true, ..NONE };
const GELU: Switches = Switches { activation: Some(Activation::Gelu), ..BIAS };
const QUICK: Switches = Switches { activation: Some(Activation::QuickGelu), ..BIAS };

/// Every epilogue that a network has, then all of them at once: what touches every tensor that halves may narrow.
const EPILOGUES: [(&str, Switches); 9] = [
    ("alone", NONE),
    ("bias", BIAS),
    ("bias gelu", GELU),
    ("bias quick_gelu", QUICK),
    ("bias residual", Switches { residual: true, ..BIAS }),
    ("bias scale residual", Switches { scale: true, residual: true, ..BIAS }),
    ("bias kept gelu", Switches { pre: true, ..GELU }),
    ("bias kept quick_gelu", Switches { pre: true, ..QUICK }),
    ("bias kept gelu scale residual", Switches { pre: true, scale: true, residual: true, ..GELU }),
];

/// What may follow a product of gradients: an activation's derivative and a second gradient; both come last.
const DERIVATIVES: [(&str, Option<Activation>, bool); 5] = [
    ("alone", None, false),
    ("residual", None, true),
    ("gelu'", Some(Activation::Gelu), false),
    ("quick_gelu'", Some(Activation::QuickGelu), false),
    ("gelu' residual", Some(Activation::Gelu), true),
];

pub(super) fn add(list: &mut List) {
    for form in Form::ALL {
        let menu = Tile::every(form, list.family);
        for (i, &tile) in menu.iter().enumerate() {
            let [large, small] = shapes(form, tile);
            // A software driver takes a second for a large tile: there the smallest of each kind, which are the last, get all
            // epilogues, the others none and, in f32, all at once.
            let next = menu.get(i + 1).map(std::mem::discriminant);
            let every = !list.is_cpu || next != Some(std::mem::discriminant(&tile));
            match form {
                Form::Nt => {
                    let [alone, .., whole] = EPILOGUES;
                    let epilogues = if every { EPILOGUES.to_vec() } else { vec![alone, whole] };
                    epilogues.into_iter().for_each(|epilogue| nt(list, tile, large, epilogue, every));
                    nt(list, tile, small, whole, every);
                }
                Form::Nn => {
                    let [alone, .., whole] = DERIVATIVES;
                    let derivatives = if every { DERIVATIVES.to_vec() } else { vec![alone, whole] };
                    derivatives.into_iter().for_each(|derivative| nn(list, tile, large, derivative, every));
                    nn(list, tile, small, whole, every);
                }
                Form::Tn => {
                    // The last is long enough to be cut into slices.
                    for (shape, sum) in [(large, true), (large, false), (small, true), ([4, 8, 1029], true)] {
                        tn(list, tile, shape, sum);
                    }
                }
            }
        }
    }
    if let Some(side) = list.matrix_units {
        let tile = Tile::Cooperative { side };
        let shape = [COOPERATIVE_TILE + 13, 2 * COOPERATIVE_TILE + 20, 48];
        EPILOGUES.into_iter().for_each(|epilogue| nt(list, tile, shape, epilogue, true));
        // Fewer rows than a fragment, and a depth that ends within a fragment.
        for shape in [[5, COOPERATIVE_TILE + 8, 84], [1, 4, 4]] {
            nt(list, tile, shape, EPILOGUES[EPILOGUES.len() - 1], true);
        }
    }
    for family in list.families() {
        for (shape, has_bias) in
            [([1, 1, 1, 1, 1, 1], true), ([2, 16, 12, 4, 4, 37], true), ([2, 21, 13, 8, 5, 33], false)]
        {
            patches(list, family, shape, has_bias);
        }
        for (shape, has_bias) in
            [([1, 1, 1, 1, 1, 4], true), ([2, 16, 12, 4, 4, 36], true), ([2, 21, 13, 8, 5, 68], false)]
        {
            patches_backward(list, family, shape, has_bias);
        }
    }
    for layout in [part_linear::Layout::SampleFirst, part_linear::Layout::PartFirst] {
        for (batch, inputs, outputs) in [(1, 1, 1), (3, 7, 5), (5, 68, 65), (3, 260, 9)] {
            let shape = part_linear::Shape { batch, parts: 2, inputs, outputs, layout };
            shape.menu(list.family).into_iter().for_each(|tile| parts(list, shape, tile));
        }
    }
}

/// A shape that ends within a tile behind one and one of a single row or column, both with a depth that ends within a step.
fn shapes(form: Form, tile: Tile) -> [[usize; 3]; 2] {
    let [rows, columns] = match tile {
        Tile::Plain => return [[7, 11, 13], [1, 1, 1]],
        Tile::Tiled { rows, columns, .. } => [rows, columns],
        Tile::Cooperative { .. } => [COOPERATIVE_TILE as u32; 2],
        Tile::Subgroup { lanes, rows, quads } => [rows, 4 * lanes * quads],
    }
    .map(|side| side as usize);
    match form {
        Form::Nt | Form::Nn => [[rows + 1, columns + 4, 20], [1, 4, 4]],
        Form::Tn => [[rows + 4, columns + 4, 17], [4, 4, 1]],
    }
}

/// Once for every storage; in f32 alone if the tile knows nothing else, or if a software driver would take long to compile what
/// others cover: it gets halves where `in_halves` says so.
fn add_product(
    list: &mut List,
    tile: Tile,
    in_halves: bool,
    variant: &str,
    [m, n, k]: [usize; 3],
    record: impl Fn(&mut Guarded<'_>) -> Vec<Expected> + Clone + 'static,
) {
    let shape = format!("{m}x{n}x{k}");
    if matches!(tile, Tile::Cooperative { .. }) {
        list.add_in(Storage::F16, "gemm", variant, &shape, record);
    } else if tile == Tile::Plain || (list.is_cpu && !in_halves) {
        list.add("gemm", format!("{variant} f32"), shape, record);
    } else {
        list.add_stored("gemm", variant, &shape, record);
    }
}

fn nt(list: &mut List, tile: Tile, [m, n, k]: [usize; 3], (name, switches): (&str, Switches), every: bool) {
    let whole = switches.pre && switches.residual;
    add_product(list, tile, whole == every, &format!("nt {tile} {name}"), [m, n, k], move |run| {
        let a = run.rounded(normal(1, m * k));
        // Outputs of about unit size, as in a network: where activations bend.
        let b = run.rounded(scaled(2, n * k, 1.0 / (k as f32).sqrt()));
        let (bias, scale) = (scaled(3, n, 0.5), normal(4, n));
        let residual = run.rounded(normal(5, m * n));
        let c = run.activation_output("c", m * n);
        let epilogue = Epilogue {
            bias: switches.bias.then(|| run.input("bias", &bias)),
            pre: switches.pre.then(|| run.activation_output("pre", m * n)),
            activation: switches.activation,
            scale: switches.scale.then(|| run.input("scale", &scale)),
            residual: switches.residual.then(|| run.activation("residual", &residual)),
        };
        let product = Nt { a: run.activation("a", &a), b: run.activation("b", &b), c, m, n, k, epilogue };
        product.record_with(&mut run.recorder, "gemm", tile);
        let exact = reference::Nt {
            a: &a,
            b: &b,
            n,
            k,
            bias: switches.bias.then_some(&bias[..]),
            activation: switches.activation,
            scale: switches.scale.then_some(&scale[..]),
            residual: switches.residual.then_some(&residual[..]),
        };
        let places = || sample(m * n, MOST).into_iter();
        let values = places().map(|i| (i, exact.at(i / n, i % n)));
        // Matrix units may cut sums off instead of rounding them: twice the error.
        let steps = if matches!(tile, Tile::Cooperative { .. }) { 4 * k } else { k };
        let mut expected = vec![Expected::near("c", c, values, tolerance::gemm(steps))];
        if let Some(pre) = epilogue.pre {
            let values = places().map(|i| (i, exact.pre(i / n, i % n)));
            expected.push(Expected::near("pre", pre, values, tolerance::gemm(steps)));
        }
        expected
    });
}

fn nn(
    list: &mut List,
    tile: Tile,
    [m, n, k]: [usize; 3],
    (name, activation, has_residual): (&str, Option<Activation>, bool),
    every: bool,
) {
    let whole = activation.is_some() && has_residual;
    add_product(list, tile, whole == every, &format!("nn {tile} {name}"), [m, n, k], move |run| {
        let a = run.rounded(normal(1, m * k));
        let b = run.rounded(scaled(2, k * n, 1.0 / (k as f32).sqrt()));
        let (kept, residual) = (run.rounded(normal(3, m * n)), run.rounded(normal(4, m * n)));
        let c = run.activation_output("c", m * n);
        let product = Nn {
            a: run.activation("a", &a),
            b: run.activation("b", &b),
            c,
            m,
            n,
            k,
            derivative: activation.map(|activation| (activation, run.activation("kept", &kept))),
            residual: has_residual.then(|| run.activation("residual", &residual)),
        };
        product.record_with(&mut run.recorder, "gemm", tile);
        let exact = reference::Nn {
            a: &a,
            b: &b,
            n,
            k,
            derivative: activation.map(|activation| (activation, &kept[..])),
            residual: has_residual.then_some(&residual[..]),
        };
        let values = sample(m * n, MOST).into_iter().map(|i| (i, exact.at(i / n, i % n)));
        vec![Expected::near("c", c, values, tolerance::gemm(k))]
    });
}

fn tn(list: &mut List, tile: Tile, [m, n, k]: [usize; 3], with_sum: bool) {
    let name = if with_sum { "column sums" } else { "alone" };
    add_product(list, tile, with_sum, &format!("tn {tile} {name}"), [m, n, k], move |run| {
        let (a, b) = (run.rounded(normal(1, k * m)), run.rounded(normal(2, k * n)));
        let c = run.output("c", m * n);
        let column_sum = with_sum.then(|| run.output("column_sum", m));
        let product = Tn { a: run.activation("a", &a), b: run.activation("b", &b), c, column_sum, m, n, k };
        product.record_with(&mut run.recorder, "gemm", tile);
        let exact = reference::Tn { a: &a, b: &b, m, n, k };
        let values = sample(m * n, MOST).into_iter().map(|i| (i, exact.at(i / n, i % n)));
        let mut expected = vec![Expected::near("c", c, values, tolerance::gemm(k))];
        if let Some(sum) = column_sum {
            let values = (0..m).map(|m| exact.column_sum(m));
            expected.push(Expected::all("column_sum", sum, values, tolerance::gemm(k)));
        }
        expected
    });
}

/// B, height, width, P, stride and D.
fn patches(list: &mut List, family: Family, shape: [usize; 6], has_bias: bool) {
    let [batch, height, width, patch, stride, dim] = shape;
    let name = if has_bias { "bias" } else { "alone" };
    let sizes = format!("{batch}x{height}x{width} patch {patch}/{stride} to {dim}");
    list.add("patch_embed", format!("forward {family} {name}"), sizes, move |run| {
        let depth = 3 * patch * patch;
        let image = normal(1, batch * 3 * height * width);
        let weight = scaled(2, dim * depth, 1.0 / (depth as f32).sqrt());
        let bias = normal(3, dim);
        let bias = has_bias.then_some(&bias[..]);
        let exact = PatchEmbed { image: &image, weight: &weight, bias, height, width, patch, stride };
        let (rows, columns) = exact.grid();
        let patches = run.output("patches", batch * rows * columns * dim);
        let embed = patch_embed::Forward {
            image: run.input("image", &image),
            weight: run.input("weight", &weight),
            bias: bias.map(|bias| run.input("bias", bias)),
            patches,
            batch,
            size: ImageSize { height, width },
            patch,
            stride,
            dim,
        };
        embed.record_with(&mut run.recorder, "patch_embed", family);
        let values = (0..patches.len).map(|i| exact.at(i / dim, i % dim));
        vec![Expected::all("patches", patches, values, tolerance::patch_embed(patch))]
    });
}

/// B, height, width, P, stride and D.
fn patches_backward(list: &mut List, family: Family, shape: [usize; 6], has_bias: bool) {
    const PREFIX: usize = 2;
    let [batch, height, width, patch, stride, dim] = shape;
    let name = if has_bias { "bias" } else { "alone" };
    let sizes = format!("{batch}x{height}x{width} patch {patch}/{stride} to {dim}");
    list.add_stored("patch_embed", &format!("backward {family} {name}"), &sizes, move |run| {
        let depth = 3 * patch * patch;
        let image = normal(7, batch * 3 * height * width);
        let exact = PatchEmbed { image: &image, weight: &[], bias: None, height, width, patch, stride };
        let (rows, columns) = exact.grid();
        let count = rows * columns;
        let dtokens = run.rounded(normal(8, batch * (PREFIX + count) * dim));
        let dweight = run.output("dweight", dim * depth);
        let dbias = has_bias.then(|| run.output("dbias", dim));
        let backward = patch_embed::Backward {
            image: run.input("image", &image),
            dtokens: run.activation("dtokens", &dtokens),
            dweight,
            dbias,
            batch,
            size: ImageSize { height, width },
            patch,
            stride,
            prefix: PREFIX,
            dim,
        };
        backward.record_with(&mut run.recorder, "patch_embed", family);
        let allowed = tolerance::patch_embed_backward(batch * count);
        let gradient = |n, k| exact.gradient(&dtokens, PREFIX, dim, n, k);
        let values = sample(dim * depth, MOST).into_iter().map(|i| (i, gradient(i / depth, Some(i % depth))));
        let mut expected = vec![Expected::near("dweight", dweight, values, allowed)];
        if let Some(dbias) = dbias {
            expected.push(Expected::all("dbias", dbias, (0..dim).map(|n| gradient(n, None)), allowed));
        }
        expected
    });
}

fn parts(list: &mut List, shape: part_linear::Shape, tile: part_linear::Tile) {
    let part_linear::Shape { batch, parts, inputs, outputs, layout } = shape;
    let variant = format!("{tile:?} {layout:?}").to_lowercase();
    let sizes = format!("{batch}x{parts}x{inputs} to {outputs}");
    list.add("part_linear", variant, sizes, move |run| {
        let (x, weight) = (normal(1, parts * batch * inputs), normal(2, parts * outputs * inputs));
        let (bias, dy) = (normal(3, parts * outputs), normal(4, parts * batch * outputs));
        let [x_of, weight_of] = [("x", &x), ("weight", &weight)].map(|(name, data)| run.input(name, data));
        let [bias_of, dy_of] = [("bias", &bias), ("dy", &dy)].map(|(name, data)| run.input(name, data));
        let (y, dx) = (run.output("y", dy.len()), run.output("dx", x.len()));
        let (dweight, dbias) = (run.output("dweight", weight.len()), run.output("dbias", bias.len()));
        part_linear::Forward { x: x_of, weight: weight_of, bias: bias_of, y, shape }.record_with(
            &mut run.recorder,
            "forward",
            tile,
        );
        part_linear::BackwardInput { weight: weight_of, dy: dy_of, dx, shape }.record_with(
            &mut run.recorder,
            "input",
            tile,
        );
        part_linear::BackwardWeight { x: x_of, dy: dy_of, dweight, dbias, shape }.record_with(
            &mut run.recorder,
            "weight",
            tile,
        );
        let strides = shape.strides();
        let exact =
            PartLinear { x: &x, weight: &weight, bias: &bias, batch, parts, inputs, outputs, strides };
        let (of_weight, of_bias) = exact.backward_weight(&dy);
        vec![
            Expected::all("y", y, exact.forward(), tolerance::gemm(inputs)),
            Expected::all("dx", dx, exact.backward_input(&dy), tolerance::gemm(outputs)),
            Expected::all("dweight", dweight, of_weight, tolerance::gemm(batch)),
            Expected::all("dbias", dbias, of_bias, tolerance::gemm(batch)),
        ]
    });
}
