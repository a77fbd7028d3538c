//! Cases of gelu: the error bounds that `common/gelu.wgsl` states.

use super::random::{Numbers, drawn};
use super::run::Run;
use super::{List, Rows, TOKENS, tolerance};
use crate::kernels::gelu::{Backward, Forward};
use crate::reference::Exact;
use crate::reference::gelu::{activation, derivative, normal_below, normal_density};
use crate::shape::Activation;
use std::rc::Rc;

/// Above this the bounds of the value itself hold.
const TAIL: f64 = -9.0;

/// Records y; `strict` compares with the value's own bound as well.
pub fn forward<'n>(run: &mut Run<'_>, x: impl Into<Numbers<'n>>, form: Activation, strict: bool) {
    let x = run.operand("x", x);
    let y = run.output("y", x.tensor.len);
    Forward { x: x.tensor, y, activation: form }.record(&mut run.recorder, "gelu");
    let points = || x.iter().map(|&x| f64::from(x)).enumerate();
    match form {
        Activation::Gelu => {
            let value = |(i, x): (usize, f64)| (i, Exact { value: activation(form, x), scale: x.abs() });
            run.near("y", y, tolerance::GELU, || points().map(value));
            if strict && x.iter().any(|&x| f64::from(x) > TAIL) {
                run.near("y of itself", y, tolerance::GELU_TAIL, || {
                    points().filter(|(_, x)| *x > TAIL).map(|(i, x)| {
                        let value = activation(form, x);
                        (i, Exact { value, scale: value.abs() })
                    })
                });
            }
        }
        Activation::QuickGelu => run.near("y", y, tolerance::QUICK_GELU, || {
            points().map(|(i, x)| {
                let value = activation(form, x);
                // The kernel clamps at -52, where σ is 4e-39.
                let scale = value.abs() * (1.0 + 1.702 * x.abs().min(52.0)) + 1e-31 * x.abs();
                (i, Exact { value, scale })
            })
        }),
    }
}

/// Records dx for dy; none stands for ones, whose dx are the slopes themselves and have a bound of their own.
pub fn backward<'n>(run: &mut Run<'_>, x: impl Into<Numbers<'n>>, dy: Option<u64>, form: Activation) {
    let x = run.operand("x", x);
    let len = x.tensor.len;
    let ones = || Numbers::new(len, move || vec![1.0; len]);
    let (dy, random) = (run.operand("dy", dy.map_or_else(ones, |stream| drawn(stream, len))), dy.is_some());
    let dx = run.output("dx", len);
    Backward { x: x.tensor, dy: dy.tensor, dx, activation: form }.record(&mut run.recorder, "gelu");
    let points = || x.iter().map(|&x| f64::from(x)).enumerate();
    run.near("dx", dx, tolerance::GELU_DERIVATIVE, || {
        points().map(|(i, x)| {
            let dy = f64::from(dy[i]);
            // One more unit for the product itself.
            let scale = if random { 1.25 * dy.abs() } else { 1.0 };
            (i, Exact { value: dy * derivative(form, x), scale })
        })
    });
    if !random && form == Activation::Gelu && x.iter().any(|&x| f64::from(x) > TAIL) {
        run.near("dx of its terms", dx, tolerance::GELU_DERIVATIVE_TAIL, || {
            points().filter(|(_, x)| *x > TAIL).map(|(i, x)| {
                let scale = normal_below(x) + x.abs() * normal_density(x);
                (i, Exact { value: derivative(form, x), scale })
            })
        });
    }
}

pub(super) fn list(list: &mut List) {
    let over = || Numbers::new(240_001, || (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect());
    let tiny = || {
        let pair = |i| [1.0, -1.0].map(|s| s * (0.01 * i as f32 - 20.0).exp2());
        Numbers::new(4002, move || (0..=2000).flat_map(pair).collect())
    };
    for (name, form) in [("gelu", Activation::Gelu), ("quick_gelu", Activation::QuickGelu)] {
        for len in [1, 67, 1_031] {
            list.add(format!("forward {name}"), format!("{len}"), move |run| forward(run, drawn(1, len), form, false));
            list.add(format!("backward {name}"), format!("{len}"), move |run| {
                backward(run, drawn(1, len), Some(9), form);
            });
        }
        let mut full = |case: String, x: Rc<dyn Fn() -> Numbers<'static>>| {
            let of_forward = x.clone();
            list.full(format!("forward {name} {case}"), move |run| forward(run, of_forward(), form, true));
            for dy in [None, Some(9)] {
                let x = x.clone();
                list.full(format!("backward {name} {case} dy {dy:?}"), move |run| backward(run, x(), dy, form));
            }
        };
        // One, primes, and around a workgroup.
        for len in [1, 2, 7, 61, 63, 64, 65, 127, 128, 129] {
            full(format!("{len}"), Rc::new(move || drawn(1, len)));
        }
        full("over [-12, 12]".to_string(), Rc::new(over));
        full("near 0".to_string(), Rc::new(tiny));
    }
}

pub(super) fn time(rows: &mut Rows<'_>) {
    let len = rows.batch * TOKENS * 4 * rows.model.dim;
    rows.add("", move |run| forward(run, drawn(1, len), Activation::Gelu, false));
    rows.add("backward", move |run| backward(run, drawn(1, len), Some(9), Activation::Gelu));
}
