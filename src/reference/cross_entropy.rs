//! Cross-entropy of one row of logits with its label, and its gradient.

use super::Exact;

/// Target of class k: smoothing/K, plus 1 - smoothing for the label.
fn target(k: usize, label: usize, classes: usize, smoothing: f32) -> f64 {
    let smoothing = f64::from(smoothing);
    smoothing / classes as f64 + if k == label { 1.0 - smoothing } else { 0.0 }
}

/// The largest logit, the sum of exp(logit - largest), and the mean of |logit - largest| under softmax.
fn exponentials(logits: &[f32]) -> (f64, f64, f64) {
    let row = || logits.iter().map(|&x| f64::from(x));
    let most = row().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = row().map(|x| (x - most).exp()).sum();
    let spread = row().map(|x| (x - most).exp() / total * (x - most).abs()).sum();
    (most, total, spread)
}

/// -Σ_k target·log softmax(logits).
pub fn loss(logits: &[f32], label: usize, smoothing: f32) -> Exact {
    let (most, total, spread) = exponentials(logits);
    let row = logits.iter().map(|&x| f64::from(x) - most).enumerate();
    let sum: f64 = row.map(|(k, centred)| target(k, label, logits.len(), smoothing) * centred).sum();
    // The absolute error of the logarithm is the relative error of its argument, which adds 1 + spread to the scale.
    Exact { value: total.ln() - sum, scale: total.ln() + 1.0 + spread - sum }
}

/// (softmax(logits) - target)/batch.
pub fn gradient(logits: &[f32], label: usize, smoothing: f32, batch: usize) -> Vec<Exact> {
    let (most, total, spread) = exponentials(logits);
    let row = logits.iter().map(|&x| f64::from(x) - most).enumerate();
    row.map(|(k, centred)| {
        let probability = centred.exp() / total;
        let target = target(k, label, logits.len(), smoothing);
        Exact {
            value: (probability - target) / batch as f64,
            scale: (probability * (1.0 + centred.abs() + spread) + target) / batch as f64,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_gradients_are_pytorchs() {
        // l = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]], dtype=torch.float64, requires_grad=True)
        // r = torch.nn.functional.cross_entropy(l, torch.tensor([2, 0]), label_smoothing=s, reduction='none')
        // r.mean().backward(); print(r, l.grad)
        let rows = [([1.0, -2.0, 0.5], 2), ([3.0, 0.25, -1.0], 0)];
        for (smoothing, losses, gradients) in [
            (
                0.0,
                [1.0045969023422834, 0.07903620140409959],
                [
                    [0.3018744480743129, 0.015029443784787011, -0.3169038918590999],
                    [-0.037996763246066545, 0.029534878796255118, 0.008461884449811405],
                ],
            ),
            (
                0.125,
                [1.0879302356756166, 0.36028620140409956],
                [
                    [0.2810411147409796, -0.005803889548546321, -0.2752372251924332],
                    [0.003669903420600089, 0.008701545462921782, -0.01237144888352193],
                ],
            ),
        ] {
            for (((logits, label), wanted), row) in rows.iter().zip(losses).zip(gradients) {
                assert!((loss(logits, *label, smoothing).value - wanted).abs() < 1e-14);
                for (found, wanted) in gradient(logits, *label, smoothing, 2).iter().zip(row) {
                    assert!((found.value - wanted).abs() < 1e-15, "{found:?} for {wanted}");
                }
            }
        }
    }

    #[test]
    fn one_class_has_zero_loss_and_gradient() {
        assert_eq!(loss(&[5.0], 0, 0.1).value, 0.0);
        assert_eq!(gradient(&[5.0], 0, 0.1, 3)[0].value, 0.0);
    }
}
