//! Chains of multiply-adds, and sums of products of fragments.

use super::Exact;

/// Component `component` of y for invocation `lane` of a workgroup: the sum of all chains after `links` links.
///
/// Every product, sum and sum of chains is rounded. A link multiplies the earlier errors by the multiplier.
pub fn multiply_add(
    lane: usize,
    component: usize,
    accumulators: usize,
    links: usize,
    multiplier: f32,
    addend: f32,
) -> Exact {
    let (multiplier, addend) = (f64::from(multiplier), f64::from(addend));
    let mut sum = Exact::default();
    for a in 0..accumulators {
        let mut x = (lane + 64 * (4 * a + component)) as f64 / 4096.0;
        let mut scale = 0.0;
        for _ in 0..links {
            let product = x * multiplier;
            x = product + addend;
            scale = scale * multiplier.abs() + product.abs() + x.abs();
        }
        sum.value += x;
        sum.scale += scale + sum.value.abs();
    }
    sum
}

/// Element (row, column) of `links` times left·right, both `side` × `side`; `right` is stored transposed.
pub fn multiply_fragments(
    left: &[f32],
    right: &[f32],
    side: usize,
    links: usize,
    (row, column): (usize, usize),
) -> Exact {
    let mut sum = Exact::default();
    for k in 0..side {
        let product = f64::from(left[row * side + k]) * f64::from(right[column * side + k]);
        sum.value += links as f64 * product;
        sum.scale += links as f64 * product.abs();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_a_geometric_sum() {
        // x·mⁿ + a·(1 - mⁿ)/(1 - m), for two chains that start at 3/4096 and 259/4096.
        let power = 0.5f64.powi(10);
        let wanted = (3.0 + 259.0) / 4096.0 * power + 2.0 * 0.25 * (1.0 - power) / 0.5;
        let found = multiply_add(3, 0, 2, 10, 0.5, 0.25);
        assert!((found.value - wanted).abs() < 1e-15, "{found:?}, wanted {wanted}");
        assert!(found.scale > found.value);
    }

    #[test]
    fn components_start_at_different_values() {
        assert_eq!(
            [0, 1, 2, 3].map(|c| 4096.0 * multiply_add(5, c, 1, 0, 1.0, 0.0).value),
            [5.0, 69.0, 133.0, 197.0]
        );
    }

    #[test]
    fn fragments_are_multiplied_as_matrices() {
        // [1 2; 3 4] · [5 7; 6 -8], the right operand stored column by column.
        let (left, right) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, -8.0]);
        let at = |row, column| multiply_fragments(&left, &right, 2, 3, (row, column));
        assert_eq!(
            [at(0, 0).value, at(0, 1).value, at(1, 0).value, at(1, 1).value],
            [51.0, -27.0, 117.0, -33.0]
        );
        assert_eq!(at(1, 1).scale, 3.0 * (21.0 + 32.0));
    }
}
