//! Cases of what runs along rows and elements: norms, token sequences, pictures, activations, copies.

use super::cases::{Expected, List};
use super::random::{bytes, normal};
use super::tolerance;
use crate::gpu::Storage;
use crate::kernels::{accumulate, gelt, gelu, image, l2norm, layernorm, layerscale, narrow, roof, tokens};
use crate::reference::gelu::{activation, derivative};
use crate::reference::{self, Exact};
use crate::shape::{Activation, GeltConfig, ImageSize, Normalize};

/// Counts of invocations to a row that adapters are served.
pub(super) const LANES: [u32; 4] = [4, 8, 16, 64];

pub(super) fn add(list: &mut List) {
    pictures(list);
    sequence(list);
    for lanes in LANES {
        norms(list, lanes);
        norms_backward(list, lanes);
        for (batch, parts, dim) in [(1, 1, 1), (3, 7, 13), (2, 3, 129)] {
            list.add("l2norm", format!("{lanes} lanes"), format!("{batch}x{parts}x{dim}"), move |run| {
                let x = normal(1, batch * parts * dim);
                let y = run.output("y", x.len());
                let call = l2norm::Forward { x: run.input("x", &x), y, batch, parts, dim };
                call.record_with(&mut run.recorder, "l2norm", lanes);
                let values = x.chunks(dim).flat_map(|part| reference::l2norm::part(part, parts));
                vec![Expected::all("y", y, values, tolerance::l2norm(dim))]
            });
        }
    }
    activations(list);
    for (rows, dim) in [(1, 4), (67, 52), (129, 60)] {
        list.add_stored("layerscale", "backward", &format!("{rows}x{dim}"), move |run| {
            let (x, dy) = (run.rounded(normal(1, rows * dim)), run.rounded(normal(3, rows * dim)));
            let weight = normal(2, dim);
            let (dx, dweight) = (run.activation_output("dx", x.len()), run.output("dweight", dim));
            let call = layerscale::Backward {
                x: run.activation("x", &x),
                weight: run.input("weight", &weight),
                dy: run.activation("dy", &dy),
                dx,
                dweight,
                rows,
                dim,
            };
            call.record(&mut run.recorder, "layerscale");
            let inputs = (0..x.len()).map(|i| reference::layerscale::forward(dy[i], weight[i % dim]));
            let weights = (0..dim).map(|d| reference::layerscale::dweight(&x, &dy, dim, d));
            vec![
                Expected::all("dx", dx, inputs, tolerance::layerscale(0)),
                Expected::all("dweight", dweight, weights, tolerance::layerscale(rows)),
            ]
        });
    }
    for len in [1, 67, 4_099] {
        list.add("accumulate", "sum", format!("{len}"), move |run| {
            let (sum, addend) = (normal(1, len), normal(2, len));
            let total = run.in_place("sum", &sum);
            let call = accumulate::Accumulate { addend: run.input("addend", &addend), sum: total };
            call.record(&mut run.recorder, "accumulate");
            let values = (0..len).map(|i| reference::accumulate::forward(sum[i], addend[i]));
            vec![Expected::all("sum", total, values, tolerance::ACCUMULATE)]
        });
    }
    for len in [4, 260] {
        list.add_stored("narrow", "forward", &format!("{len}"), move |run| {
            let wide = normal(1, len);
            let narrowed = run.activation_output("narrow", len);
            let call = narrow::Narrow { wide: run.input("wide", &wide), narrow: narrowed };
            call.record(&mut run.recorder, "narrow");
            // Nothing happens on the way but the rounding of halves, which is allowed for.
            let values = wide.into_iter().map(|v| Exact { value: f64::from(v), scale: 0.0 });
            vec![Expected::all("narrow", narrowed, values, tolerance::NARROW)]
        });
    }
    roofs(list);
}

fn roofs(list: &mut List) {
    for accumulators in roof::ACCUMULATORS {
        list.add("roof", format!("multiply-adds, {accumulators} chains"), "67x4, 3 turns", move |run| {
            let (turns, multiplier, addend) = (3, 0.984_375, 0.007_812_5);
            let y = run.output("y", 4 * 67);
            let call = roof::MultiplyAdd { y, accumulators, turns, multiplier, addend };
            call.record(&mut run.recorder, "roof");
            let values = (0..y.len).map(|i| {
                let (lane, component, links) = (i / 4 % 64, i % 4, (roof::TOGETHER * turns) as usize);
                let chains = accumulators as usize;
                reference::roof::multiply_add(lane, component, chains, links, multiplier, addend)
            });
            vec![Expected::all("y", y, values, tolerance::ROOF)]
        });
    }
    for each in roof::EACH {
        list.add("roof", format!("copies, {each} together"), "257x4", move |run| {
            let data = normal(1, 4 * 257);
            let to_words = run.output("to", data.len());
            let call = roof::CopyWords { from_words: run.input("from", &data), to_words, each };
            call.record(&mut run.recorder, "roof");
            vec![Expected::same("to", to_words, data.iter().map(|v| v.to_bits()).enumerate())]
        });
    }
    let Some(side) = list.matrix_units else { return };
    let (edge, groups, turns) = (side as usize, 3, 5);
    let variant = format!("multiply-adds, fragments of {side}x{side}");
    list.add_in(Storage::F16, "roof", &variant, "3 workgroups, 5 turns", move |run| {
        // Whole numbers: their sums are exact in any order.
        let count = (2 * roof::BLOCKS + 2) * edge * edge;
        let operands: Vec<f32> = bytes(1, count).into_iter().map(|byte| f32::from(byte % 8) - 3.0).collect();
        let y = run.output("y", groups * roof::BLOCKS * 4 * edge * edge);
        let tensor = run.activation("operands", &operands);
        roof::MultiplyFragments { operands: tensor, y, side, turns }.record(&mut run.recorder, "roof");
        let fragment = |i: usize| &operands[i * edge * edge..(i + 1) * edge * edge];
        let links = (roof::TOGETHER * turns) as usize;
        let values = (0..y.len).map(|i| {
            let (place, sum, block) = (i % (edge * edge), i / (edge * edge) % 4, i / (4 * edge * edge));
            let left = fragment(2 * (block % roof::BLOCKS) + sum / 2);
            let right = fragment(2 * roof::BLOCKS + sum % 2);
            let place = (place / edge, place % edge);
            (i, reference::roof::multiply_fragments(left, right, edge, links, place).value as f32)
        });
        vec![Expected::same("y", y, values.map(|(i, value)| (i, (value + 0.0).to_bits())))]
    });
}

fn pictures(list: &mut List) {
    for (batch, height, width, flips) in [(1, 1, 1, false), (3, 5, 7, false), (3, 13, 31, true)] {
        let variant = if flips { "flips" } else { "no flips" };
        list.add("image", variant, format!("{batch}x{height}x{width}"), move |run| {
            let size = ImageSize { height, width };
            let plane = height * width;
            let pixels = bytes(1, batch * 3 * plane);
            // Bytes past the last pixel may hold anything.
            let mut padded = pixels.clone();
            padded.resize(4 * image::pixel_words(batch, size), 0xa5);
            let words: Vec<u32> =
                padded.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let flip: Vec<u32> = if flips { (0..batch as u32).map(|b| b % 2).collect() } else { Vec::new() };
            let (mean, std) = Normalize::Imagenet.mean_std();
            let image = run.output("image", batch * 3 * plane);
            let call = image::Forward {
                pixels: run.words("pixels", &words),
                flip: flips.then(|| run.words("flip", &flip)),
                image,
                batch,
                size,
                mean,
                std,
            };
            call.record(&mut run.recorder, "image");
            let exact = reference::image::Image { pixels: &pixels, flip: &flip, height, width, mean, std };
            let values = (0..image.len)
                .map(|i| exact.at(i / (3 * plane), i / plane % 3, i % plane / width, i % width));
            vec![Expected::all("image", image, values, tolerance::IMAGE)]
        });
    }
}

/// The token sequence and what is read off it.
fn sequence(list: &mut List) {
    // Of the prefix, the class token alone has a position, or all of it, or nothing.
    for (batch, prefix, count, dim, positioned) in [(1, 1, 1, 4, 1), (3, 5, 13, 68, 1), (2, 2, 3, 28, 0)] {
        let shape = format!("{batch}x({prefix}+{count})x{dim}, {positioned} positioned");
        let sequence = (prefix + count) * dim;
        list.add_stored("tokens", "forward", &shape, move |run| {
            let (first, patches) = (normal(1, prefix * dim), normal(2, batch * count * dim));
            let position = normal(3, (positioned + count) * dim);
            let tokens = run.activation_output("tokens", batch * sequence);
            let call = tokens::Forward {
                prefix: run.input("prefix", &first),
                patches: run.input("patches", &patches),
                position: run.input("position", &position),
                tokens,
                batch,
                count,
                dim,
            };
            call.record(&mut run.recorder, "tokens");
            let exact = reference::tokens::Tokens {
                prefix: &first,
                patches: &patches,
                position: &position,
                count,
                dim,
            };
            let values = (0..tokens.len).map(|i| exact.at(i / sequence, i % sequence / dim, i % dim));
            vec![Expected::all("tokens", tokens, values, tolerance::TOKENS)]
        });
        list.add_stored("tokens", "backward", &shape, move |run| {
            let dtokens = run.rounded(normal(7, batch * sequence));
            let (dprefix, dposition) =
                (run.output("dprefix", prefix * dim), run.output("dposition", (positioned + count) * dim));
            let call = tokens::Backward {
                dtokens: run.activation("dtokens", &dtokens),
                dprefix,
                dposition,
                batch,
                count,
                dim,
            };
            call.record(&mut run.recorder, "tokens");
            let gradient = |i| reference::tokens::gradient(&dtokens, sequence, i);
            let with_position = (0..prefix + count)
                .filter(|&t| reference::tokens::position_row(t, prefix, positioned).is_some());
            let positions = with_position.flat_map(|t| (0..dim).map(move |d| gradient(t * dim + d)));
            let allowed = tolerance::tokens_backward(batch);
            vec![
                Expected::all("dposition", dposition, positions, allowed),
                Expected::all("dprefix", dprefix, (0..prefix * dim).map(gradient), allowed),
            ]
        });
    }
    for (batch, prefix, parts, columns, dim) in [(1, 1, 1, 1, 4), (2, 2, 7, 3, 68), (2, 5, 3, 11, 28)] {
        let shape = format!("{batch}x({prefix}+{parts}x{columns})x{dim}");
        let weights = GeltConfig::default().weights();
        let within = (prefix + parts * columns) * dim;
        list.add_stored("gelt", "forward", &shape, move |run| {
            let tokens = run.rounded(normal(1, batch * within));
            let gelt = run.output("gelt", batch * parts * dim);
            let tokens_of = run.activation("tokens", &tokens);
            gelt::Forward { tokens: tokens_of, gelt, first: 0, batch, prefix, parts, columns, dim, weights }
                .record(&mut run.recorder, "gelt");
            let exact = reference::gelt::Gelt { tokens: &tokens, prefix, parts, columns, dim, weights };
            let values = (0..gelt.len).map(|i| exact.at(i / (parts * dim), i / dim % parts, i % dim));
            vec![Expected::all("gelt", gelt, values, tolerance::gelt(columns))]
        });
        list.add_stored("gelt", "backward", &shape, move |run| {
            let dgelt = normal(3, batch * parts * dim);
            let dtokens = run.activation_output("dtokens", batch * within);
            let dgelt_of = run.input("dgelt", &dgelt);
            gelt::Backward {
                dgelt: dgelt_of,
                dtokens,
                first: 0,
                batch,
                prefix,
                parts,
                columns,
                dim,
                weights,
            }
            .record(&mut run.recorder, "gelt");
            let exact = reference::gelt::Gelt { tokens: &[], prefix, parts, columns, dim, weights };
            let values =
                (0..dtokens.len).map(|i| exact.gradient(&dgelt, i / within, i % within / dim, i % dim));
            vec![Expected::all("dtokens", dtokens, values, tolerance::gelt_backward(parts))]
        });
    }
}

const EPS: f32 = 1e-6;

fn norms(list: &mut List, lanes: u32) {
    for (rows, dim, keep) in [(1, 4, true), (7, 52, true), (3, 260, false)] {
        let variant = format!("forward {lanes} lanes{}", if keep { " stats" } else { "" });
        list.add_stored("layernorm", &variant, &format!("{rows}x{dim}"), move |run| {
            let x = run.rounded(normal(1, rows * dim));
            let (weight, bias) = (normal(2, dim), normal(3, dim));
            let y = run.activation_output("y", x.len());
            let stats = keep.then(|| run.output("stats", 2 * rows));
            let call = layernorm::Forward {
                x: run.activation("x", &x),
                weight: run.input("weight", &weight),
                bias: run.input("bias", &bias),
                y,
                stats,
                rows,
                dim,
                eps: EPS,
            };
            call.record_with(&mut run.recorder, "layernorm", lanes);
            let allowed = tolerance::layernorm(dim);
            let values = x.chunks(dim).flat_map(|row| reference::layernorm::row(row, &weight, &bias, EPS));
            let mut expected = vec![Expected::all("y", y, values, allowed)];
            let values = x.chunks(dim).flat_map(|row| reference::layernorm::stats(row, EPS));
            expected.extend(stats.map(|stats| Expected::all("stats", stats, values, allowed)));
            expected
        });
    }
}

fn norms_backward(list: &mut List, lanes: u32) {
    for (rows, dim, has_addend) in [(1, 4, false), (67, 52, true), (5, 260, false)] {
        let variant = format!("backward {lanes} lanes{}", if has_addend { " addend" } else { "" });
        list.add_stored("layernorm", &variant, &format!("{rows}x{dim}"), move |run| {
            let [x, dy, addend] = [1, 10, 11].map(|stream| run.rounded(normal(stream, rows * dim)));
            let weight = normal(9, dim);
            let stats: Vec<f32> = x
                .chunks(dim)
                .flat_map(|row| reference::layernorm::stats(row, EPS))
                .map(|stat| stat.value as f32)
                .collect();
            let (x_of, dy_of) = (run.activation("x", &x), run.activation("dy", &dy));
            let stats_of = run.input("stats", &stats);
            let dx = run.activation_output("dx", x.len());
            let call = layernorm::BackwardInput {
                x: x_of,
                stats: stats_of,
                dy: dy_of,
                weight: run.input("weight", &weight),
                addend: has_addend.then(|| run.activation("addend", &addend)),
                dx,
                rows,
                dim,
            };
            call.record_with(&mut run.recorder, "input", lanes);
            // With an addend, a second norm goes along, whose gradient came out of the other's place.
            let mut parameters = |dy, name: [&str; 2]| {
                let [dweight, dbias] = name.map(|name| run.output(name, dim));
                layernorm::Parameters { x: x_of, stats: stats_of, dy, dweight, dbias }
            };
            let norm = parameters(dy_of, ["dweight", "dbias"]);
            let other = has_addend.then(|| parameters(x_of, ["other dweight", "other dbias"]));
            layernorm::BackwardParameters { norm, other, rows, dim }.record_with(
                &mut run.recorder,
                "parameters",
                lanes,
            );

            let exact =
                reference::layernorm::gradients(&x, &weight, EPS, &dy, has_addend.then_some(&addend[..]));
            let allowed = tolerance::layernorm_parameters(rows);
            let mut expected = vec![
                Expected::all("dx", dx, exact.dx, tolerance::layernorm_backward(dim)),
                Expected::all("dweight", norm.dweight, exact.dweight, allowed),
                Expected::all("dbias", norm.dbias, exact.dbias, allowed),
            ];
            if let Some(other) = other {
                let exact = reference::layernorm::gradients(&x, &weight, EPS, &x, None);
                expected.push(Expected::all("other dweight", other.dweight, exact.dweight, allowed));
                expected.push(Expected::all("other dbias", other.dbias, exact.dbias, allowed));
            }
            expected
        });
    }
}

fn activations(list: &mut List) {
    for (name, form) in [("gelu", Activation::Gelu), ("quick_gelu", Activation::QuickGelu)] {
        for len in [1, 67, 1_031] {
            list.add("gelu", format!("forward {name}"), format!("{len}"), move |run| {
                let x = normal(1, len);
                let y = run.output("y", len);
                let call = gelu::Forward { x: run.input("x", &x), y, activation: form };
                call.record(&mut run.recorder, "gelu");
                let values = x.iter().map(|&x| {
                    let x = f64::from(x);
                    let value = activation(form, x);
                    // As the table's rows say.
                    let scale = match form {
                        Activation::Gelu => x.abs(),
                        Activation::QuickGelu => value.abs() * (1.0 + 1.702 * x.abs()),
                    };
                    Exact { value, scale }
                });
                let allowed = match form {
                    Activation::Gelu => tolerance::GELU,
                    Activation::QuickGelu => tolerance::QUICK_GELU,
                };
                vec![Expected::all("y", y, values, allowed)]
            });
            list.add("gelu", format!("backward {name}"), format!("{len}"), move |run| {
                let (x, dy) = (normal(1, len), normal(9, len));
                let dx = run.output("dx", len);
                let call =
                    gelu::Backward { x: run.input("x", &x), dy: run.input("dy", &dy), dx, activation: form };
                call.record(&mut run.recorder, "gelu");
                let values = x.iter().zip(&dy).map(|(&x, &dy)| {
                    let dy = f64::from(dy);
                    // One more unit for the product itself.
                    Exact { value: dy * derivative(form, f64::from(x)), scale: 1.25 * dy.abs() }
                });
                vec![Expected::all("dx", dx, values, tolerance::GELU_DERIVATIVE)]
            });
        }
    }
}
