//! narrow against the reference in every storage; and every kernel that touches quads, in halves against itself in f32.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::{normal, scaled};
use crate::common::{assert_same_bits, context, tolerance};
use half::f16;
use lat_wgpu::gpu::{Storage, Tensor};
use lat_wgpu::kernels::gemm::{Epilogue, Form, Nn, Nt, Tile, Tn};
use lat_wgpu::kernels::narrow::Narrow;
use lat_wgpu::kernels::{attention, gelt, layernorm, layerscale, patch_embed, tokens};
use lat_wgpu::reference::{Exact, narrow as reference};
use lat_wgpu::shape::{Activation, ImageSize};

/// Storages of this adapter that are narrower than f32.
fn halves() -> Vec<Storage> {
    [Storage::F16, Storage::Packed].into_iter().filter(|&storage| context().supports(storage)).collect()
}

fn narrowed(values: &[f32], storage: Storage) -> Vec<f32> {
    let mut run = Guarded::with_storage(&format!("narrow {storage:?}"), storage);
    let narrow =
        Narrow { wide: run.input("wide", values), narrow: run.activation_output("narrow", values.len()) };
    narrow.record(&mut run.recorder, "narrow");
    run.run().remove(0)
}

#[test]
fn values_round_to_a_neighbouring_half() {
    for len in [4, 12, 252, 256, 260] {
        let values = normal(1, len);
        assert_same_bits("narrow to f32", &values, &narrowed(&values, Storage::F32));
        for storage in halves() {
            let wanted = values.iter().enumerate().map(|(i, &v)| {
                (i, Exact { value: f64::from(v), scale: f64::from(v.abs()).max(2f64.powi(-14)) })
            });
            let found = narrowed(&values, storage);
            compare(&format!("narrow {len} {storage:?}"), &found, wanted, tolerance::NARROW);
        }
    }
}

#[test]
fn what_a_half_cannot_hold_is_infinite() {
    let values = [65504.0, -65504.0, 65505.0, -1e30, f32::INFINITY, f32::NAN, -f32::INFINITY, 1.0];
    for storage in halves() {
        let found = narrowed(&values, storage);
        let infinite: Vec<bool> = found.iter().map(|v| v.is_infinite()).collect();
        assert_eq!(infinite, values.map(|v| reference::to_half(v).is_infinite()), "{storage:?}: {found:?}");
    }
}

/// Numbers that a half holds exactly.
fn exact(seed: u64, len: usize) -> Vec<f32> {
    normal(seed, len).into_iter().map(|v| f16::from_f32(v).to_f32()).collect()
}

/// Runs what `record` records in f32 and in each half storage: outputs in words are the same bits, outputs in quads those
/// of f32, rounded. `exact` inputs make both see the same numbers.
#[track_caller]
fn same_but_rounded(case: &str, record: impl Fn(&mut Guarded)) {
    let results = |storage| {
        let mut run = Guarded::with_storage(&format!("{case} {storage:?}"), storage);
        record(&mut run);
        run.run()
    };
    let wide = results(Storage::F32);
    for storage in halves() {
        for (i, (wide, found)) in wide.iter().zip(results(storage)).enumerate() {
            let bits = |v: f32| v.to_bits();
            let other = (wide.iter().zip(&found)).position(|(&wide, &found)| {
                let half = reference::to_half(wide);
                // Adapters may round either way.
                let near = (f64::from(found) - half).abs() <= half.abs().max(2f64.powi(-14)) * 2f64.powi(-10);
                bits(wide) != bits(found) && !near
            });
            assert_eq!(other, None, "{case} {storage:?}: output {i} is not f32's, rounded");
        }
    }
}

#[test]
fn gemm_in_halves_is_gemm_in_f32_rounded() {
    let (m, n, k) = (37, 68, 44);
    for tile in Tile::menu(Form::Nt, context().family(), context().class())
        .into_iter()
        .filter(|tile| *tile != Tile::Plain)
    {
        for kept in [false, true] {
            same_but_rounded(&format!("gemm NT {tile:?}"), |run| {
                let (a, b) = (run.activation("a", &exact(1, m * k)), run.activation("b", &exact(2, n * k)));
                let c = run.activation_output("c", m * n);
                let epilogue = Epilogue {
                    bias: Some(run.input("bias", &normal(3, n))),
                    pre: kept.then(|| run.activation_output("pre", m * n)),
                    activation: Some(Activation::Gelu),
                    scale: Some(run.input("scale", &normal(4, n))),
                    residual: Some(run.activation("residual", &exact(5, m * n))),
                };
                Nt { a, b, c, m, n, k, epilogue }.record_with(&mut run.recorder, "gemm", tile);
            });
        }
    }
    for tile in Tile::menu(Form::Nn, context().family(), context().class())
        .into_iter()
        .filter(|tile| *tile != Tile::Plain)
    {
        same_but_rounded(&format!("gemm NN {tile:?}"), |run| {
            let (a, b) = (run.activation("a", &exact(1, m * k)), run.activation("b", &exact(2, k * n)));
            let c = run.activation_output("c", m * n);
            let derivative = Some((Activation::Gelu, run.activation("kept", &exact(3, m * n))));
            let residual = Some(run.activation("residual", &exact(5, m * n)));
            Nn { a, b, c, m, n, k, derivative, residual }.record_with(&mut run.recorder, "gemm", tile);
        });
    }
    let (m, n, k) = (36, 68, 41);
    for tile in Tile::menu(Form::Tn, context().family(), context().class())
        .into_iter()
        .filter(|tile| *tile != Tile::Plain)
    {
        same_but_rounded(&format!("gemm TN {tile:?}"), |run| {
            let (a, b) = (run.activation("a", &exact(1, k * m)), run.activation("b", &exact(2, k * n)));
            let c = run.output("c", m * n);
            let column_sum = Some(run.output("column_sum", m));
            Tn { a, b, c, column_sum, m, n, k }.record_with(&mut run.recorder, "gemm", tile);
        });
    }
}

#[test]
fn layernorm_in_halves_is_layernorm_in_f32_rounded() {
    let (rows, dim) = (5, 100);
    same_but_rounded("layernorm", |run| {
        let x = run.activation("x", &exact(1, rows * dim));
        let (weight, bias) = (run.input("weight", &normal(2, dim)), run.input("bias", &normal(3, dim)));
        let (y, stats) = (run.activation_output("y", rows * dim), run.output("stats", rows * 2));
        layernorm::Forward { x, weight, bias, y, stats: Some(stats), rows, dim, eps: 1e-6 }
            .record(&mut run.recorder, "layernorm");
    });
    same_but_rounded("layernorm backward", |run| {
        let x = run.activation("x", &exact(1, rows * dim));
        let stats = run.input("stats", &[0.1, 0.9].repeat(rows));
        let dy = run.activation("dy", &exact(4, rows * dim));
        let weight = run.input("weight", &normal(2, dim));
        let addend = Some(run.activation("addend", &exact(5, rows * dim)));
        let dx = run.activation_output("dx", rows * dim);
        layernorm::BackwardInput { x, stats, dy, weight, addend, dx, rows, dim }
            .record(&mut run.recorder, "layernorm");
        let (dweight, dbias) = (run.output("dweight", dim), run.output("dbias", dim));
        let norm = layernorm::Parameters { x, stats, dy, dweight, dbias };
        let (dweight, dbias) = (run.output("other dweight", dim), run.output("other dbias", dim));
        let other = Some(layernorm::Parameters { dweight, dbias, ..norm });
        layernorm::BackwardParameters { norm, other, rows, dim }.record(&mut run.recorder, "layernorm");
    });
}

#[test]
fn layerscale_in_halves_is_layerscale_in_f32_rounded() {
    let (rows, dim) = (67, 36);
    same_but_rounded("layerscale", |run| {
        let (x, dy) =
            (run.activation("x", &exact(1, rows * dim)), run.activation("dy", &exact(2, rows * dim)));
        let weight = run.input("weight", &normal(3, dim));
        let (dx, dweight) = (run.activation_output("dx", rows * dim), run.output("dweight", dim));
        layerscale::Backward { x, weight, dy, dx, dweight, rows, dim }
            .record(&mut run.recorder, "layerscale");
    });
}

#[test]
fn the_sequence_in_halves_is_that_in_f32_rounded() {
    let (batch, count, dim) = (2, 6, 20);
    same_but_rounded("tokens", |run| {
        let prefix = run.input("prefix", &normal(1, dim));
        let patches = run.input("patches", &normal(2, batch * count * dim));
        let position = run.input("position", &normal(3, (1 + count) * dim));
        let tokens = run.activation_output("tokens", batch * (1 + count) * dim);
        tokens::Forward { prefix, patches, position, tokens, batch, count, dim }
            .record(&mut run.recorder, "tokens");
    });
    same_but_rounded("tokens backward", |run| {
        let dtokens = run.activation("dtokens", &exact(1, batch * (1 + count) * dim));
        let (dprefix, dposition) = (run.output("dprefix", dim), run.output("dposition", (1 + count) * dim));
        tokens::Backward { dtokens, dprefix, dposition, batch, count, dim }
            .record(&mut run.recorder, "tokens");
    });
    let shape = |run: &mut Guarded, gelt: Tensor, tokens: Tensor, forward: bool| {
        let (first, prefix, parts, columns, weights) = (0, 1, 3, 2, (0.8, 0.2));
        if forward {
            gelt::Forward { tokens, gelt, first, batch, prefix, parts, columns, dim, weights }
                .record(&mut run.recorder, "gelt");
        } else {
            let (dgelt, dtokens) = (gelt, tokens);
            gelt::Backward { dgelt, dtokens, first, batch, prefix, parts, columns, dim, weights }
                .record(&mut run.recorder, "gelt");
        }
    };
    same_but_rounded("gelt", |run| {
        let tokens = run.activation("tokens", &exact(1, batch * 7 * dim));
        let gelt = run.output("gelt", batch * 3 * dim);
        shape(run, gelt, tokens, true);
    });
    same_but_rounded("gelt backward", |run| {
        let dgelt = run.input("dgelt", &normal(1, batch * 3 * dim));
        let dtokens = run.activation_output("dtokens", batch * 7 * dim);
        shape(run, dgelt, dtokens, false);
    });
}

#[test]
fn attention_in_halves_is_attention_in_f32_rounded() {
    let (batch, tokens, heads, head_dim) = (2, 19, 2, 12);
    let rows = batch * tokens * heads * head_dim;
    same_but_rounded("attention", |run| {
        let qkv = run.activation("qkv", &exact(1, 3 * rows));
        let (out, lse) = (run.activation_output("out", rows), run.output("lse", batch * heads * tokens));
        attention::Forward { qkv, out, lse: Some(lse), batch, tokens, heads, head_dim }
            .record(&mut run.recorder, "attention");
    });
    same_but_rounded("attention backward", |run| {
        let qkv = run.activation("qkv", &exact(1, 3 * rows));
        let (out, dout) = (run.activation("out", &exact(2, rows)), run.activation("dout", &exact(3, rows)));
        let lse = run.input("lse", &scaled(4, batch * heads * tokens, 0.1));
        let dqkv = run.activation_output("dqkv", 3 * rows);
        attention::Backward { qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim }
            .record(&mut run.recorder, "attention");
    });
}

#[test]
fn patch_gradients_of_halves_are_those_of_f32() {
    let (batch, dim, size, patch) = (2, 36, ImageSize { height: 10, width: 15 }, 5);
    same_but_rounded("patch_embed backward", |run| {
        let image = run.input("image", &normal(1, batch * 3 * 150));
        let dtokens = run.activation("dtokens", &exact(2, batch * 7 * dim));
        let (dweight, dbias) = (run.output("dweight", dim * 75), run.output("dbias", dim));
        let (dbias, prefix, stride) = (Some(dbias), 1, patch);
        patch_embed::Backward { image, dtokens, dweight, dbias, batch, prefix, size, patch, stride, dim }
            .record(&mut run.recorder, "patch_embed");
    });
}
