//! The jigsaw of TransReID: patches rotated, shuffled in two groups, and cut into sequences behind the class token.

use super::Exact;

/// Patches by which the sequence is rotated.
const SHIFT: usize = 4;

/// The patches in their order after rotation and shuffling, step by step as in the authors' code. With an odd number of
/// patches the second last of them is repeated.
pub fn order(patches: usize) -> Vec<usize> {
    let mut rotated: Vec<usize> = (0..patches).collect();
    rotated.rotate_left(SHIFT % patches);
    if !patches.is_multiple_of(2) {
        rotated.push(rotated[patches - 2]);
    }
    // (2, half) becomes (half, 2).
    let (first, second) = rotated.split_at(rotated.len() / 2);
    first.iter().zip(second).flat_map(|(&a, &b)| [a, b]).collect()
}

/// The tokens of an image in each of its `pieces` sequences.
pub fn sequences(tokens: usize, pieces: usize) -> Vec<Vec<usize>> {
    let (patches, order) = (tokens - 1, order(tokens - 1));
    let cut = order.chunks_exact(patches / pieces).take(pieces);
    cut.map(|piece| std::iter::once(0).chain(piece.iter().map(|patch| 1 + patch)).collect()).collect()
}

/// The sequences (P, 1+M, D) of the tokens (T, D) of one image.
pub fn cut(z: &[f32], dim: usize, pieces: usize) -> Vec<Exact> {
    let exact = |&v: &f32| Exact { value: v.into(), scale: f64::from(v).abs() };
    let tokens = sequences(z.len() / dim, pieces).into_iter().flatten();
    tokens.flat_map(|token| z[token * dim..][..dim].iter().map(exact)).collect()
}

/// The gradient of the tokens (T, D) of one image: `dwhole` plus that of its sequences (P, 1+M, D).
pub fn merge(dwhole: &[f32], dpieces: &[f32], dim: usize, pieces: usize) -> Vec<Exact> {
    let mut sums: Vec<Exact> =
        dwhole.iter().map(|&v| Exact { value: v.into(), scale: f64::from(v).abs() }).collect();
    let tokens = sequences(dwhole.len() / dim, pieces).into_iter().flatten();
    for (token, row) in tokens.zip(dpieces.chunks(dim)) {
        for (sum, &v) in sums[token * dim..].iter_mut().zip(row) {
            sum.value += f64::from(v);
            sum.scale += f64::from(v).abs();
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_ordered_as_in_pytorch() {
        // f = torch.arange(n + 1)[None, :, None]; TransReID's shuffle_unit(f, 5, 2)[0, :, 0] - 1
        assert_eq!(order(8), [4, 0, 5, 1, 6, 2, 7, 3]);
        assert_eq!(order(9), [4, 0, 5, 1, 6, 2, 7, 3, 8, 2]);
        assert_eq!(order(10)[..6], [4, 9, 5, 0, 6, 1]);
        assert_eq!(sequences(10, 4), [[0, 5, 1], [0, 6, 2], [0, 7, 3], [0, 8, 4]]);
    }
}
