//! Cases of what only training has: part classifiers' norm, losses, clipping, the optimiser.

use super::cases::{Expected, List};
use super::random::{normal, scaled};
use super::rows::LANES;
use super::tolerance::{self, Tolerance};
use crate::kernels::adam::{Adam, Betas, StepValues};
use crate::kernels::batchnorm::{Backward, DROPOUT_STREAM, Evaluate, Layer, Train, Update};
use crate::kernels::gradnorm::{Control, Finish, Partial, partial_words};
use crate::kernels::{cross_entropy, triplet};
use crate::reference::batchnorm::{BatchNorm, Dropout};
use crate::reference::{self, Exact};
use crate::rng;

const SEED: u64 = 0x1234_5678_9abc_def0;
const STEP: u32 = 17;
const PLACE: u32 = 96;

pub(super) fn add(list: &mut List) {
    for (batch, parts, dim) in [(2, 1, 1), (3, 2, 67), (13, 2, 33)] {
        for (relu, drop) in [(false, 0.0), (true, 0.5)] {
            let layer = Layer { batch, parts, dim, eps: 1e-5, relu, drop, momentum: 0.1 };
            batchnorm(list, layer);
        }
    }
    for classes in [2, 13, 67] {
        LANES.into_iter().for_each(|lanes| losses(list, lanes, classes));
    }
    for (batch, length) in [(1, 1), (7, 13), (13, 131), (19, 132)] {
        triplets(list, batch, length);
    }
    for (len, clip) in [(4, 0.0), (4_100, 1.0), (12_292, 1e6)] {
        LANES.into_iter().for_each(|lanes| norm(list, lanes, len, clip));
    }
    for len in [4, 268] {
        for decoupled in [false, true] {
            steps(list, len, decoupled);
        }
    }
}

/// The operands of a part classifier's norm.
struct Norm {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    layer: Layer,
}

impl Norm {
    fn new(layer: Layer) -> Norm {
        let units = layer.parts * layer.dim;
        Norm { x: normal(1, units * layer.batch), weight: normal(2, units), bias: normal(3, units), layer }
    }

    fn exact(&self) -> BatchNorm<'_> {
        let Norm { x, weight, bias, layer: Layer { batch, parts, dim, eps, relu, drop, .. } } = self;
        let dropout = Dropout { seed: SEED, step: STEP, stream: DROPOUT_STREAM, place: PLACE, drop: *drop };
        let (batch, parts, dim, eps, relu) = (*batch, *parts, *dim, *eps, *relu);
        BatchNorm { x, weight, bias, batch, parts, dim, eps, relu, dropout }
    }
}

fn batchnorm(list: &mut List, layer: Layer) {
    let Layer { batch, parts, dim, relu, drop, .. } = layer;
    let switches = match (relu, drop > 0.0) {
        (false, false) => "",
        _ => " relu dropout",
    };
    let shape = format!("{parts}x{batch}x{dim}");
    let units = parts * dim;
    list.add("batchnorm", format!("train, backward{switches}"), shape.clone(), move |run| {
        let case = Norm::new(layer);
        let exact = case.exact();
        let mut dy = normal(4, case.x.len());
        // Where ReLU's kink is within a rounding error, either gradient is right: none comes from there.
        let near = exact.before_relu().into_iter().map(|z| z.abs() < 1e-4);
        dy.iter_mut().zip(near).filter(|(_, near)| *near).for_each(|(dy, _)| *dy = 0.0);
        let step = StepValues { seed: SEED, number: STEP, place: PLACE, ..StepValues::default() };
        let (x, weight) = (run.input("x", &case.x), run.input("weight", &case.weight));
        let (bias, step) = (run.input("bias", &case.bias), run.words("step", &step.words()));
        let (y, saved) = (run.output("y", case.x.len()), run.output("saved", layer.saved_words()));
        let dx = run.output("dx", case.x.len());
        let (dweight, dbias) = (run.output("dweight", units), run.output("dbias", units));
        Train { x, weight, bias, y, saved, step, layer }.record(&mut run.recorder, "train");
        let dy_of = run.input("dy", &dy);
        Backward { x, saved, dy: dy_of, step, dx, dweight, dbias, layer }
            .record(&mut run.recorder, "backward");

        let (statistics, gradients) = (exact.statistics(), exact.backward(&dy));
        let (forward, backward) = (tolerance::batchnorm(batch), tolerance::batchnorm_backward(batch));
        // Of two samples, x̂ is ±1 whatever they are, and dx is 0 but for eps: there is nothing to be relative to.
        let nmse = if batch == 2 { f64::INFINITY } else { backward.nmse };
        let of_units = |values: Vec<Exact>, word: usize| (word..).step_by(4).zip(values);
        vec![
            Expected::all("y", y, exact.train(), forward),
            Expected::near("mean", saved, of_units(statistics.mean, 0), forward),
            Expected::near("variance", saved, of_units(statistics.var, 1), forward),
            Expected::all("dx", dx, gradients.dx, Tolerance { nmse, ..backward }),
            Expected::all("dweight", dweight, gradients.dweight, backward),
            Expected::all("dbias", dbias, gradients.dbias, backward),
        ]
    });
    let running = move || {
        let var = normal(6, units).iter().map(|v| v * v).collect::<Vec<f32>>();
        (normal(5, units), var)
    };
    list.add("batchnorm", format!("evaluate{switches}"), shape.clone(), move |run| {
        let case = Norm::new(layer);
        let (mean, var) = running();
        let y = run.output("y", case.x.len());
        let call = Evaluate {
            x: run.input("x", &case.x),
            weight: run.input("weight", &case.weight),
            bias: run.input("bias", &case.bias),
            running_mean: run.input("running_mean", &mean),
            running_var: run.input("running_var", &var),
            y,
            layer,
        };
        call.record(&mut run.recorder, "evaluate");
        vec![Expected::all("y", y, case.exact().evaluate(&mean, &var), tolerance::batchnorm(1))]
    });
    list.add("batchnorm", format!("update{switches}"), shape, move |run| {
        let case = Norm::new(layer);
        let exact = case.exact();
        let (mean, var) = running();
        let statistics = exact.statistics();
        let of_batch = statistics.mean.iter().zip(&statistics.var).enumerate();
        let saved: Vec<f32> = of_batch
            .flat_map(|(unit, (mean, var))| {
                [mean.value as f32, var.value as f32, case.weight[unit], case.bias[unit]]
            })
            .collect();
        let (running_mean, running_var) =
            (run.in_place("running_mean", &mean), run.in_place("running_var", &var));
        let control = Control { counted: true, ..Control::start(1.0) };
        let call = Update {
            saved: run.input("saved", &saved),
            control: run.words("control", &control.words()),
            running_mean,
            running_var,
            layer,
        };
        call.record(&mut run.recorder, "update");
        let (means, vars) = exact.update(&mean, &var, layer.momentum);
        let allowed = tolerance::batchnorm(batch);
        vec![
            Expected::all("running_mean", running_mean, means, allowed),
            Expected::all("running_var", running_var, vars, allowed),
        ]
    });
}

fn losses(list: &mut List, lanes: u32, classes: usize) {
    let (batch, parts) = (3, 2);
    for (smoothing, has_gradient) in [(0.1, true), (0.0, false)] {
        let variant = format!("{lanes} lanes{}", if has_gradient { " smoothed gradient" } else { "" });
        list.add("cross_entropy", variant, format!("{batch}x{parts}x{classes}"), move |run| {
            let logits = normal(1, parts * batch * classes);
            // The first and the last class among them.
            let labels = [0, classes as u32 - 1, rng::bits(5, 0, 2) % classes as u32];
            let loss = run.output("loss", parts * batch);
            let gradient = has_gradient.then(|| {
                (run.output("dlogits", logits.len()), run.words("control", &Control::start(1.0).words()))
            });
            let call = cross_entropy::CrossEntropy {
                logits: run.input("logits", &logits),
                labels: run.words("labels", &labels),
                loss,
                gradient,
                batch,
                parts,
                classes,
                smoothing,
            };
            call.record_with(&mut run.recorder, "cross_entropy", lanes);
            let rows =
                || logits.chunks(classes).enumerate().map(|(i, row)| (row, labels[i % batch] as usize));
            let allowed = tolerance::cross_entropy(classes);
            let values = rows().map(|(row, label)| reference::cross_entropy::loss(row, label, smoothing));
            let mut expected = vec![Expected::all("loss", loss, values, allowed)];
            if let Some((dlogits, _)) = gradient {
                let values = rows().flat_map(|(row, label)| {
                    reference::cross_entropy::gradient(row, label, smoothing, batch)
                });
                expected.push(Expected::all("dlogits", dlogits, values, allowed));
            }
            expected
        });
    }
}

/// An anchor's loss and its two pictures, if it has any.
type Mined = (Exact, Option<[usize; 2]>);

/// Three launches, each on what the reference gives for the one before it.
fn triplets(list: &mut List, batch: usize, length: usize) {
    const MARGIN: f32 = 0.3;
    let shape = format!("{batch}x{length}");
    let parts = move || normal(1, batch * length);
    let distances = move || -> Vec<f32> {
        reference::triplet::distances(&parts(), batch).iter().map(|d| d.value as f32).collect()
    };
    let mined = move |distances: &[f32]| -> (Vec<u32>, Vec<f64>, Vec<Mined>) {
        let labels: Vec<u32> = (0..batch as u64).map(|i| 1000 + rng::bits(6, 1, i) % 3).collect();
        let exact: Vec<f64> = distances.iter().map(|&d| f64::from(d)).collect();
        let mine = |anchor| reference::triplet::mine(&exact, &labels, anchor, f64::from(MARGIN));
        let all = (0..batch).map(mine).collect();
        (labels, exact, all)
    };
    let words = |all: &[Mined]| -> Vec<u32> {
        all.iter()
            .flat_map(|(_, pair)| pair.map_or([triplet::NONE; 2], |pair| pair.map(|i| i as u32)))
            .collect()
    };
    list.add("triplet", "distances", shape.clone(), move |run| {
        let parts = parts();
        let distances = run.output("distances", batch * batch);
        let call = triplet::Distances { parts: run.input("parts", &parts), distances, batch, length };
        call.record(&mut run.recorder, "distances");
        let values = reference::triplet::distances(&parts, batch);
        vec![Expected::all("distances", distances, values, tolerance::triplet_distances(length))]
    });
    list.add("triplet", "mine", shape.clone(), move |run| {
        let distances = distances();
        let (labels, _, mined) = mined(&distances);
        let (loss, choice) = (run.output("loss", batch), run.output("choice", 2 * batch));
        let call = triplet::Mine {
            distances: run.input("distances", &distances),
            labels: run.words("labels", &labels),
            loss,
            choice,
            batch,
            margin: MARGIN,
        };
        call.record(&mut run.recorder, "mine");
        vec![
            Expected::all("loss", loss, mined.iter().map(|m| m.0), tolerance::TRIPLET_LOSS),
            Expected::same("choice", choice, words(&mined).into_iter().enumerate()),
        ]
    });
    list.add("triplet", "backward", shape, move |run| {
        let (parts, distances) = (parts(), distances());
        let (_, exact, mined) = mined(&distances);
        let before = normal(99, parts.len());
        let dparts = run.in_place("dparts", &before);
        let call = triplet::Backward {
            parts: run.input("parts", &parts),
            distances: run.input("distances", &distances),
            choice: run.words("choice", &words(&mined)),
            dparts,
            control: run.words("control", &Control::start(1.0).words()),
            batch,
            length,
        };
        call.record(&mut run.recorder, "backward");
        let choices: Vec<_> = mined.into_iter().map(|m| m.1).collect();
        let values = reference::triplet::gradient(&parts, &exact, &choices, &before);
        vec![Expected::all("dparts", dparts, values, tolerance::triplet_backward(batch))]
    });
}

fn norm(list: &mut List, lanes: u32, len: usize, clip: f32) {
    list.add("gradnorm", format!("{lanes} lanes, clip {clip}"), format!("{len}"), move |run| {
        let (gradients, losses) = (normal(1, len), normal(4, 67));
        let partials = run.output("partials", partial_words(len));
        let partial = Partial { gradients: run.input("gradients", &gradients), partials };
        partial.record_with(&mut run.recorder, "partial", lanes);
        let step = StepValues { clip_norm: clip, ..StepValues::default() };
        let before = Control::start(1.0).words().map(f32::from_bits);
        let control = run.in_place("control", &before);
        let finish = Finish {
            partials,
            losses: run.input("losses", &losses),
            step: run.words("step", &step.words()),
            control,
        };
        finish.record(&mut run.recorder, "finish");

        let exact = reference::gradnorm::control(&[&gradients], &losses, f64::from(clip));
        // Behind the last chunk nothing is added, and nowhere is a word that isn't finite.
        let chunks = gradients.chunks(4096).map(reference::gradnorm::squares).chain(std::iter::repeat(0.0));
        let sums = (0..partials.len).step_by(2).zip(chunks);
        let sums = sums.map(|(word, value)| (word, Exact { value, scale: value }));
        let after = Control { counted: exact.finite, steps: 1, ..Control::start(1.0) }.words();
        let rest = after.into_iter().enumerate().filter(|(word, _)| ![1, 2].contains(word));
        vec![
            Expected::near("partials", partials, sums, tolerance::gradnorm(4096)),
            Expected::same("marks", partials, (1..partials.len).step_by(2).map(|word| (word, 0))),
            Expected::near(
                "control",
                control,
                [(1, exact.factor), (2, exact.norm)],
                tolerance::gradnorm(len),
            ),
            Expected::same("control", control, rest),
        ]
    });
}

fn steps(list: &mut List, len: usize, decoupled: bool) {
    let variant = if decoupled { "decoupled decay" } else { "coupled decay" };
    list.add("adam", variant, format!("{len}"), move |run| {
        let (rate, decay, factor, t) = (1e-2, 0.1, 0.25, 3);
        let (parameters, first) = (normal(1, len), scaled(2, len, 0.1));
        let second: Vec<f32> = normal(3, len).iter().map(|v| 0.01 * v * v).collect();
        let gradients = scaled(4, len, 0.3);
        let betas = Betas::default();
        let step = StepValues {
            learning_rate: rate,
            weight_decay: decay,
            // The group under test is the second of three; the others' words must not matter.
            corrections: vec![[f32::NAN; 2], betas.corrections(t), [f32::NAN; 2]],
            ..StepValues::default()
        };
        let mut control = Control { counted: true, ..Control::start(1.0) }.words();
        // What gradients are multiplied with.
        control[1] = f32::to_bits(factor);
        let parameters_of = run.in_place("parameters", &parameters);
        let (first_of, second_of) = (run.in_place("first", &first), run.in_place("second", &second));
        let call = Adam {
            gradients: run.input("gradients", &gradients),
            step: run.words("step", &step.words()),
            control: run.words("control", &control),
            parameters: parameters_of,
            first_moment: first_of,
            second_moment: second_of,
            group: 1,
            betas,
            decoupled,
        };
        call.record(&mut run.recorder, "adam");
        let exact = reference::adam::Adam {
            rate: f64::from(rate),
            beta1: betas.beta1,
            beta2: betas.beta2,
            eps: betas.eps,
            decay: f64::from(decay),
            decoupled,
            factor: f64::from(factor),
        };
        let after: Vec<_> = (0..len)
            .map(|i| {
                let [p, m, v, g] = [parameters[i], first[i], second[i], gradients[i]].map(f64::from);
                exact.step(t, p, m, v, g)
            })
            .collect();
        vec![
            Expected::all("parameters", parameters_of, after.iter().map(|s| s.parameter), tolerance::ADAM),
            Expected::all("first", first_of, after.iter().map(|s| s.first), tolerance::ADAM),
            Expected::all("second", second_of, after.iter().map(|s| s.second), tolerance::ADAM),
        ]
    });
}
