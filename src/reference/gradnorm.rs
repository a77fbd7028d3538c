//! L2 norm and finiteness of all gradients, and the clipping factor.

use super::Exact;

/// The result that gates and scales a step.
#[derive(Debug, Clone, Copy)]
pub struct Control {
    /// True if every gradient and loss is finite.
    pub finite: bool,
    /// Factor of the gradients.
    pub factor: Exact,
    /// L2 norm over the gradients before clipping.
    pub norm: Exact,
}

/// Sum of squares.
pub fn squares(gradients: &[f32]) -> f64 {
    gradients.iter().map(|&g| f64::from(g).powi(2)).sum()
}

/// From the gradients of all groups, the losses, and the largest norm `clip`; 0 disables clipping.
pub fn control(groups: &[&[f32]], losses: &[f32], clip: f64) -> Control {
    let finite = groups.iter().copied().flatten().chain(losses).all(|v| v.is_finite());
    let norm = groups.iter().map(|gradients| squares(gradients)).sum::<f64>().sqrt();
    let factor = if finite && clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let exact = |value: f64| Exact { value, scale: value };
    Control { finite, factor: exact(factor), norm: exact(norm) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_is_pytorchs() {
        // g = torch.tensor([3., -4., 12.], dtype=torch.float64, requires_grad=True); g.grad = g.detach().clone()
        // print(torch.nn.utils.clip_grad_norm_([g], 2.0), g.grad)
        let found = control(&[&[3.0, -4.0], &[12.0]], &[0.5], 2.0);
        assert!(found.finite && found.norm.value == 13.0);
        assert!((3.0 * found.factor.value - 0.46153842603550577).abs() < 1e-15);
        assert_eq!(control(&[&[3.0]], &[], 4.0).factor.value, 1.0);
        assert_eq!(control(&[&[3.0]], &[], 0.0).factor.value, 1.0);
        assert!(!control(&[&[3.0]], &[f32::INFINITY], 0.0).finite);
        assert!(!control(&[&[f32::NAN]], &[], 0.0).finite);
    }
}
