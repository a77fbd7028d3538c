//! gemm: all tile families against the reference and each other.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{normal, sample, scaled};
use crate::common::{assert_same_bits, context, tolerance};
use lat_wgpu::gpu::Family;
use lat_wgpu::kernels::gemm::{Epilogue, Nt, SUBGROUP_ROWS, TILED_MENU, Tile};
use lat_wgpu::reference::gemm as reference;
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
        for tile in tiles(self.k) {
            for (plain, found) in plain.iter().zip(self.run(Some(tile))) {
                assert_same_bits(&format!("{} {tile:?}", self.name()), plain, &found);
            }
        }
    }
}

/// What this adapter can run beside the plain kernel.
fn tiles(k: usize) -> Vec<Tile> {
    if !k.is_multiple_of(4) {
        return Vec::new();
    }
    let mut tiles = TILED_MENU.to_vec();
    if let Family::Subgroup(lanes) = context().family() {
        for rows in SUBGROUP_ROWS {
            let tile = Tile::Subgroup { lanes, rows: rows.max(lanes) };
            if !tiles.contains(&tile) {
                tiles.push(tile);
            }
        }
    }
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
        for tile in tiles(64).into_iter().map(Some).chain([None, Some(Tile::Plain)]) {
            assert_same_bits(&format!("first {m} rows, {tile:?}"), &all[0][..m * 96], &small.run(tile)[0]);
        }
    }
}
