//! gemm: all tile families against the reference and each other.

use crate::common::compare::compare;
use crate::common::differences::{coarse, prove};
use crate::common::guard::Guarded;
use crate::common::random::{normal, sample, scaled};
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::kernels::gemm::{Epilogue, Form, Nn, Nt, Tile, Tn};
use lat_wgpu::reference::{gelu, gemm as reference};
use lat_wgpu::shape::Activation;

/// What stands behind a product.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
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
const RESIDUAL: Switches = Switches { residual: true, ..BIAS };
const LAYER_SCALE: Switches = Switches { scale: true, ..RESIDUAL };
const KEPT: Switches = Switches { pre: true, ..GELU };
const QUICK_KEPT: Switches = Switches { pre: true, ..QUICK };

/// One product with its operands.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    switches: Switches,
    a: Vec<f32>,
    b: Vec<f32>,
    bias: Vec<f32>,
    scale: Vec<f32>,
    residual: Vec<f32>,
}

impl Product {
    fn new(m: usize, n: usize, k: usize, switches: Switches) -> Self {
        Product {
            m,
            n,
            k,
            switches,
            a: normal(1, m * k),
            // Outputs of about unit size, as in a network: where activations bend.
            b: scaled(2, n * k, 1.0 / (k as f32).sqrt()),
            bias: scaled(3, n, 0.5),
            scale: normal(4, n),
            residual: normal(5, m * n),
        }
    }

    fn name(&self) -> String {
        let Product { m, n, k, switches: s, .. } = self;
        let mut name = format!("gemm {m}x{n}x{k}");
        let parts = [(s.bias, " bias"), (s.pre, " pre"), (s.scale, " scale"), (s.residual, " residual")];
        name.extend(parts.iter().filter(|(on, _)| *on).map(|(_, part)| *part));
        match s.activation {
            None => name,
            Some(activation) => format!("{name} {activation:?}"),
        }
    }

    /// c, and pre if it is kept.
    fn run(&self, tile: Option<Tile>) -> Vec<Vec<f32>> {
        let Product { m, n, k, switches, .. } = *self;
        let mut run = Guarded::new(&format!("{} {tile:?}", self.name()));
        let a = run.input("a", &self.a);
        let b = run.input("b", &self.b);
        let c = run.output("c", m * n);
        let epilogue = Epilogue {
            bias: switches.bias.then(|| run.input("bias", &self.bias)),
            pre: switches.pre.then(|| run.output("pre", m * n)),
            activation: switches.activation,
            scale: switches.scale.then(|| run.input("scale", &self.scale)),
            residual: switches.residual.then(|| run.input("residual", &self.residual)),
        };
        let product = Nt { a, b, c, m, n, k, epilogue };
        match tile {
            None => product.record(&mut run.recorder, "gemm"),
            Some(tile) => product.record_with(&mut run.recorder, "gemm", tile),
        }
        run.run()
    }

    /// Compares about `count` outputs of the plain kernel with the reference, and all others with the plain kernel.
    fn check(&self, count: usize) {
        let switches = self.switches;
        let exact = reference::Nt {
            a: &self.a,
            b: &self.b,
            n: self.n,
            k: self.k,
            bias: switches.bias.then_some(&self.bias[..]),
            activation: switches.activation,
            scale: switches.scale.then_some(&self.scale[..]),
            residual: switches.residual.then_some(&self.residual[..]),
        };
        let plain = self.run(Some(Tile::Plain));
        let places = sample(self.m * self.n, count);
        let wanted = places.iter().map(|&i| (i, exact.at(i / self.n, i % self.n)));
        compare(&self.name(), &plain[0], wanted, tolerance::gemm(self.k));
        if switches.pre {
            let wanted = places.iter().map(|&i| (i, exact.pre(i / self.n, i % self.n)));
            compare(&format!("{}: pre", self.name()), &plain[1], wanted, tolerance::gemm(self.k));
        }
        for tile in tiles(Form::Nt, self.m, self.n, self.k) {
            for (plain, found) in plain.iter().zip(self.run(Some(tile))) {
                assert_same_bits(&format!("{} {tile:?}", self.name()), plain, &found);
            }
        }
    }
}

/// The tiles that this adapter can run beside the plain one: those of every class, for large products of its own alone.
fn tiles(form: Form, m: usize, n: usize, k: usize) -> Vec<Tile> {
    let (family, class) = (context().family(), context().class());
    let mut tiles = match form.in_quads(m, n, k) {
        false => Vec::new(),
        true if m * n > 40_000 => Tile::menu(form, family, class),
        true => Tile::every(form, family),
    };
    tiles.retain(|tile| *tile != Tile::Plain);
    tiles
}

#[test]
fn one_and_primes() {
    for (m, n, k) in [
        (1, 1, 1),
        (1, 1, 4),
        (1, 13, 20),
        (11, 1, 28),
        (2, 3, 5),
        (7, 11, 13),
        (13, 7, 44),
        (61, 67, 71),
        (127, 3, 4),
    ] {
        Product::new(m, n, k, NONE).check(usize::MAX);
    }
}

#[test]
fn around_every_tile() {
    for tile in [8, 16, 32, 64, 128] {
        for (m, n, k) in [(tile - 1, tile + 1, tile), (tile + 1, tile - 1, tile - 4), (tile, tile, tile + 4)]
        {
            Product::new(m, n, k, BIAS).check(usize::MAX);
        }
    }
    // Depths around the tiled family's step of 16, and one that is no multiple of 4.
    for k in [12, 16, 20, 17] {
        Product::new(33, 35, k, BIAS).check(usize::MAX);
    }
}

#[test]
fn every_epilogue_of_the_network() {
    for switches in [NONE, BIAS, GELU, QUICK, RESIDUAL, LAYER_SCALE, KEPT, QUICK_KEPT] {
        Product::new(37, 70, 24, switches).check(usize::MAX);
    }
}

#[test]
fn shapes_of_vit_b() {
    for (n, k, switches) in
        [(2304, 768, BIAS), (768, 768, LAYER_SCALE), (3072, 768, GELU), (768, 3072, RESIDUAL)]
    {
        Product::new(197, n, k, switches).check(4000);
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let large = Product::new(131, 96, 64, BIAS);
    let all = large.run(None);
    for m in [1, 8, 37, 64, 130] {
        let small = Product { m, a: large.a[..m * 64].to_vec(), ..Product::new(m, 96, 64, BIAS) };
        for tile in tiles(Form::Nt, m, 96, 64).into_iter().map(Some).chain([None, Some(Tile::Plain)]) {
            assert_same_bits(&format!("first {m} rows, {tile:?}"), &all[0][..m * 96], &small.run(tile)[0]);
        }
    }
}

/// One A·B with its operands.
struct Turned {
    m: usize,
    n: usize,
    k: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    derivative: Option<Activation>,
    kept: Vec<f32>,
    residual: Option<Vec<f32>>,
}

impl Turned {
    fn new(m: usize, n: usize, k: usize, derivative: Option<Activation>, residual: bool) -> Self {
        Turned {
            m,
            n,
            k,
            a: normal(1, m * k),
            b: scaled(2, k * n, 1.0 / (k as f32).sqrt()),
            derivative,
            kept: normal(3, m * n),
            residual: residual.then(|| normal(4, m * n)),
        }
    }

    fn name(&self) -> String {
        let Turned { m, n, k, derivative, residual, .. } = self;
        let residual = if residual.is_some() { " residual" } else { "" };
        format!("gemm nn {m}x{n}x{k} {derivative:?}{residual}")
    }

    fn exact(&self) -> reference::Nn<'_> {
        let Turned { a, b, n, k, derivative, kept, residual, .. } = self;
        let derivative = derivative.map(|activation| (activation, &kept[..]));
        reference::Nn { a, b, n: *n, k: *k, derivative, residual: residual.as_deref() }
    }

    fn run(&self, tile: Option<Tile>) -> Vec<f32> {
        let Turned { m, n, k, .. } = *self;
        let mut run = Guarded::new(&format!("{} {tile:?}", self.name()));
        let a = run.input("a", &self.a);
        let b = run.input("b", &self.b);
        let c = run.output("c", m * n);
        let derivative = self.derivative.map(|activation| (activation, run.input("kept", &self.kept)));
        let residual = self.residual.as_ref().map(|residual| run.input("residual", residual));
        let product = Nn { a, b, c, m, n, k, derivative, residual };
        match tile {
            None => product.record(&mut run.recorder, "gemm"),
            Some(tile) => product.record_with(&mut run.recorder, "gemm", tile),
        }
        run.run().remove(0)
    }

    fn check(&self, count: usize) {
        let plain = self.run(Some(Tile::Plain));
        let exact = self.exact();
        let places = sample(self.m * self.n, count).into_iter();
        let wanted = places.map(|i| (i, exact.at(i / self.n, i % self.n)));
        compare(&self.name(), &plain, wanted, tolerance::gemm(self.k));
        let tiles = tiles(Form::Nn, self.m, self.n, self.k).into_iter().map(Some);
        for tile in tiles.chain([None]) {
            assert_same_bits(&format!("{} {tile:?}", self.name()), &plain, &self.run(tile));
        }
    }
}

/// One Aᵀ·B with its operands.
struct Summed {
    m: usize,
    n: usize,
    k: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Summed {
    fn new(m: usize, n: usize, k: usize) -> Self {
        Summed { m, n, k, a: normal(1, k * m), b: normal(2, k * n) }
    }

    fn exact(&self) -> reference::Tn<'_> {
        let Summed { a, b, m, n, k } = self;
        reference::Tn { a, b, m: *m, n: *n, k: *k }
    }

    /// c, and the sums of a's columns if they are asked for.
    fn run(&self, tile: Option<Tile>, with_sum: bool) -> Vec<Vec<f32>> {
        let Summed { m, n, k, .. } = *self;
        let mut run = Guarded::new(&format!("gemm tn {m}x{n}x{k} {tile:?}"));
        let a = run.input("a", &self.a);
        let b = run.input("b", &self.b);
        let c = run.output("c", m * n);
        let column_sum = with_sum.then(|| run.output("column_sum", m));
        let product = Tn { a, b, c, column_sum, m, n, k };
        match tile {
            None => product.record(&mut run.recorder, "gemm"),
            Some(tile) => product.record_with(&mut run.recorder, "gemm", tile),
        }
        run.run()
    }

    fn check(&self, count: usize) {
        let Summed { m, n, k, .. } = *self;
        let name = format!("gemm tn {m}x{n}x{k}");
        let plain = self.run(Some(Tile::Plain), true);
        let exact = self.exact();
        let places = sample(m * n, count).into_iter();
        let wanted = places.map(|i| (i, exact.at(i / n, i % n)));
        compare(&name, &plain[0], wanted, tolerance::gemm(k));
        let wanted = (0..m).map(|m| (m, exact.column_sum(m)));
        compare(&format!("{name}: column_sum"), &plain[1], wanted, tolerance::gemm(k));
        for tile in tiles(Form::Tn, m, n, k).into_iter().map(Some).chain([None]) {
            for (plain, found) in plain.iter().zip(self.run(tile, true)) {
                assert_same_bits(&format!("{name} {tile:?}"), plain, &found);
            }
        }
        assert_same_bits(&format!("{name} alone"), &plain[0], &self.run(None, false)[0]);
    }
}

#[test]
fn backward_one_and_primes() {
    for (m, n, k) in [
        (1, 1, 1),
        (1, 4, 4),
        (4, 1, 4),
        (4, 4, 1),
        (2, 3, 5),
        (13, 20, 28),
        (20, 28, 13),
        (28, 13, 20),
        (61, 67, 71),
    ] {
        Turned::new(m, n, k, None, false).check(usize::MAX);
        Summed::new(m, n, k).check(usize::MAX);
    }
}

#[test]
fn backward_around_every_tile() {
    for tile in [8, 16, 32, 64, 128] {
        for (m, n, k) in [(tile - 1, tile + 4, tile), (tile + 1, tile - 4, tile - 4), (tile, tile, tile + 4)]
        {
            Turned::new(m, n, k, None, false).check(usize::MAX);
        }
        for (m, n, k) in [(tile - 4, tile + 4, tile - 1), (tile + 4, tile - 4, tile + 1), (tile, tile, tile)]
        {
            Summed::new(m, n, k).check(usize::MAX);
        }
    }
    // Depths around the tiled family's step of 16.
    for k in [1, 3, 4, 15, 16, 17, 31, 33] {
        Summed::new(36, 40, k).check(usize::MAX);
    }
    // Long sums of few outputs, which are cut into slices: the last one short, and as many as there may be.
    Summed::new(36, 40, 1029).check(usize::MAX);
    Summed::new(12, 4, 8203).check(usize::MAX);
    for k in [4, 12, 16, 20] {
        Turned::new(33, 36, k, None, false).check(usize::MAX);
    }
}

#[test]
fn backward_every_epilogue() {
    let (gelu, quick) = (Some(Activation::Gelu), Some(Activation::QuickGelu));
    for (derivative, residual) in [(None, true), (gelu, false), (gelu, true), (quick, false)] {
        Turned::new(37, 72, 24, derivative, residual).check(usize::MAX);
    }
}

#[test]
fn backward_shapes_of_vit_s() {
    // Two images: dX of fc2 with its GELU, dX of qkv; dW of the projection and of fc1.
    Turned::new(2 * 257, 1536, 384, Some(Activation::Gelu), false).check(4000);
    Turned::new(2 * 257, 384, 1152, None, false).check(4000);
    Summed::new(384, 384, 8 * 257).check(2000);
    Summed::new(1536, 384, 2 * 257).check(2000);
}

#[test]
fn reference_gradients_of_a_linear_layer_are_the_difference_quotients() {
    let (m, n, k) = (5, 7, 3);
    let (x, weight, bias) = (coarse(1, m * k), coarse(2, n * k), coarse(3, n));
    let dy = normal(4, m * n);
    let loss = |a: &[f32], b: &[f32], bias: &[f32]| -> f64 {
        let forward =
            reference::Nt { a, b, n, k, bias: Some(bias), activation: None, scale: None, residual: None };
        let terms = dy.iter().enumerate();
        terms.map(|(i, &dy)| f64::from(dy) * forward.at(i / n, i % n).value).sum()
    };
    let dx = reference::Nn { a: &dy, b: &weight, n: k, k: n, derivative: None, residual: None };
    let dx: Vec<f64> = (0..m * k).map(|i| dx.at(i / k, i % k).value).collect();
    prove("gemm dx", &x, &dx, |x| loss(x, &weight, &bias));
    let product = reference::Tn { a: &dy, b: &x, m: n, n: k, k: m };
    let dweight: Vec<f64> = (0..n * k).map(|i| product.at(i / k, i % k).value).collect();
    prove("gemm dweight", &weight, &dweight, |weight| loss(&x, weight, &bias));
    let dbias: Vec<f64> = (0..n).map(|m| product.column_sum(m).value).collect();
    prove("gemm dbias", &bias, &dbias, |bias| loss(&x, &weight, bias));
}

#[test]
fn reference_gradient_before_an_activation_is_the_difference_quotient() {
    // Two paths back to x: y = activation(x)·Wᵀ, and x itself.
    let (m, n, k) = (4, 5, 6);
    let (x, weight) = (coarse(1, m * n), normal(2, k * n));
    let (dy, straight) = (normal(3, m * k), normal(4, m * n));
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        let loss = |x: &[f32]| -> f64 {
            let direct: f64 = x.iter().zip(&straight).map(|(&x, &dx)| f64::from(x) * f64::from(dx)).sum();
            let through = dy.iter().enumerate().map(|(i, &dy)| {
                let (x, weight) = (&x[i / k * n..][..n], &weight[i % k * n..][..n]);
                let terms = x.iter().zip(weight);
                let y: f64 =
                    terms.map(|(&x, &w)| gelu::activation(activation, f64::from(x)) * f64::from(w)).sum();
                f64::from(dy) * y
            });
            direct + through.sum::<f64>()
        };
        let derivative = Some((activation, &x[..]));
        let dx = reference::Nn { a: &dy, b: &weight, n, k, derivative, residual: Some(&straight) };
        let dx: Vec<f64> = (0..m * n).map(|i| dx.at(i / n, i % n).value).collect();
        prove(&format!("gemm dx before {activation:?}"), &x, &dx, loss);
    }
}

/// Sizes of a product whose rows of tiles don't divide evenly, in any tile.
const UNEVEN: [usize; 3] = [300, 36, 68];

/// The launches that a product is cut into if none may take more than its `share`th part, and its outputs.
fn in_parts(form: Form, tile: Option<Tile>, share: f64) -> (usize, Vec<Vec<f32>>) {
    let [m, n, k] = UNEVEN;
    let mut run = Guarded::new(&format!("gemm {form:?} {tile:?} in parts"));
    run.recorder.dispatch_flops = 2.0 * (m * n * k) as f64 / share;
    let (a, b) = (normal(1, m * k), normal(2, n * k));
    let (a, b) = (run.input("a", &a), run.input("b", &b));
    let c = run.output("c", m * n);
    let tile = tile.unwrap_or(Tile::Plain);
    match form {
        Form::Nt => {
            let bias = run.input("bias", &normal(3, n));
            let pre = run.output("pre", m * n);
            let epilogue = Epilogue {
                bias: Some(bias),
                pre: Some(pre),
                activation: Some(Activation::Gelu),
                ..Epilogue::default()
            };
            let product = Nt { a, b, c, m, n, k, epilogue };
            product.record_with(&mut run.recorder, "gemm", tile);
        }
        Form::Nn => {
            let residual = Some(run.input("residual", &normal(4, m * n)));
            let product = Nn { a, b, c, m, n, k, derivative: None, residual };
            product.record_with(&mut run.recorder, "gemm", tile);
        }
        Form::Tn => {
            let column_sum = Some(run.output("column_sum", m));
            let product = Tn { a, b, c, column_sum, m, n, k };
            product.record_with(&mut run.recorder, "gemm", tile);
        }
    }
    (run.recorder.summary().dispatches, run.run())
}

#[test]
fn a_product_in_several_launches_gives_the_same_bits() {
    for form in Form::ALL {
        let (whole, wanted) = in_parts(form, None, 1.0);
        assert_eq!(whole, 1, "{form:?}");
        let menu = Tile::menu(form, context().family(), context().class());
        for tile in menu.into_iter().map(Some) {
            // More parts than rows of tiles are as many as those.
            for (share, least) in [(2.5, 2), (1e6, 3)] {
                let (launches, found) = in_parts(form, tile, share);
                assert!(launches >= least, "{form:?} {tile:?}: {launches} launches");
                assert!(share > 10.0 || launches <= 3, "{form:?} {tile:?}: {launches} launches");
                for (wanted, found) in wanted.iter().zip(&found) {
                    assert_same_bits(&format!("{form:?} {tile:?} in {launches}"), wanted, found);
                }
            }
        }
    }
}
