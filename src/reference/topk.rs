//! The k smallest of a list with their indices, by sorting the whole list.

/// The first k pairs (distance, index) by distance, equal distances by index. Ignores distances that are not finite.
pub fn nearest(distances: &[f32], k: usize) -> Vec<(f32, u32)> {
    let mut pairs: Vec<(f32, u32)> =
        distances.iter().copied().zip(0..).filter(|(d, _)| d.is_finite()).collect();
    pairs.sort_by(|(d, i), (e, j)| d.total_cmp(e).then(i.cmp(j)));
    pairs.truncate(k);
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_by_index() {
        let found = nearest(&[2.0, 1.0, f32::NAN, 2.0, 0.5, 1.0, f32::NEG_INFINITY], 4);
        assert_eq!(found, [(0.5, 4), (1.0, 1), (1.0, 5), (2.0, 0)]);
        assert_eq!(nearest(&[1.0], 3), [(1.0, 0)]);
    }
}
