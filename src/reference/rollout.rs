//! Attention rollout: the attention of a block as a matrix that includes the residual path, and a row multiplied by it.

use super::Exact;
use super::attention::Attention;

/// mixed (T, T) of the first image, from the log-sum-exp (H, T) of its scores, as the adapter receives it.
///
/// An error e of a score changes its probability by the relative amount e. So does the rounding of exp's argument.
/// `scale` weights each probability with both.
pub fn probabilities(attention: Attention<'_>, lse: &[f32]) -> Vec<Exact> {
    let Attention { tokens, heads, .. } = attention;
    let share = 0.5 / heads as f64;
    let mut mixed = vec![Exact::default(); tokens * tokens];
    for query in 0..tokens {
        let row = &mut mixed[query * tokens..][..tokens];
        for head in 0..heads {
            let lse = f64::from(lse[head * tokens + query]);
            for (sum, score) in row.iter_mut().zip(attention.scores(0, head, query)) {
                let argument = score.value - lse;
                let p = share * argument.exp();
                sum.value += p;
                sum.scale += p * (1.0 + score.scale + argument.abs());
            }
        }
        row[query].value += 0.5;
        row[query].scale += 0.5;
    }
    mixed
}

/// carried\[j\] = Σ_i row\[i\]·matrix\[i,j\] for `row` (T) and `matrix` (T, T).
pub fn multiply(row: &[f32], matrix: &[f32]) -> Vec<Exact> {
    let mut carried = vec![Exact::default(); row.len()];
    for (&weight, from) in row.iter().zip(matrix.chunks(row.len())) {
        for (sum, &value) in carried.iter_mut().zip(from) {
            let product = f64::from(weight) * f64::from(value);
            sum.value += product;
            sum.scale += product.abs();
        }
    }
    carried
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_share_half_of_the_weight() {
        // T = 2, H = 1, Dh = 4: all scores are 1·3·4/√4 = 6, so a row of attention is ½, ½.
        let qkv = [[1.0; 4], [3.0; 4], [2.0; 4], [1.0; 4], [3.0; 4], [6.0; 4]].concat();
        let attention = Attention { qkv: &qkv, tokens: 2, heads: 1, head_dim: 4 };
        let lse = [6.0 + 2f32.ln(); 2];
        let mixed: Vec<f64> = probabilities(attention, &lse).iter().map(|m| m.value).collect();
        for (found, wanted) in mixed.iter().zip([0.75, 0.25, 0.25, 0.75]) {
            assert!((found - wanted).abs() < 1e-6, "{mixed:?}");
        }
    }

    #[test]
    fn a_row_is_multiplied_by_a_matrix() {
        let carried = multiply(&[0.25, 0.75], &[0.5, 0.5, 0.0, 1.0]);
        assert_eq!((carried[0].value, carried[1].value), (0.125, 0.875));
    }
}
