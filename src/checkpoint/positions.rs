//! The position table: the tokens of its rows, and resizing to another grid.

/// Rows and columns of a grid of patches.
pub(super) type Grid = (usize, usize);

/// Layout of the rows of a file's position table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Rows for prefix tokens, before the positions: 0, 1 (the class token) or all.
    pub(super) prefix_rows: usize,
    /// Grid of the positions.
    pub(super) grid: Grid,
}

impl Table {
    /// Infers the layout of a table of `rows` rows in a network with `prefix` prefix tokens; `None` if no layout fits.
    ///
    /// The positions have the `wanted` grid if it is known and fits, else a square grid. If a square fits as well as a
    /// wanted grid that isn't square, the square is taken, as in published tables. `stored` is the grid that the file
    /// names; then nothing is inferred.
    pub(super) fn read(
        rows: usize,
        prefix: usize,
        stored: Option<Grid>,
        wanted: Option<Grid>,
    ) -> Option<Table> {
        if let Some(grid) = stored {
            if grid.0 == 0 || grid.1 == 0 {
                return None;
            }
            let positions = grid.0.checked_mul(grid.1)?;
            let prefix_rows = [prefix, 1, 0].into_iter().find(|p| p.checked_add(positions) == Some(rows))?;
            return Some(Table { prefix_rows, grid });
        }
        let square = |prefix_rows: usize| {
            let positions = rows.checked_sub(prefix_rows).filter(|&n| n > 0)?;
            let side = positions.isqrt();
            (side * side == positions).then_some(Table { prefix_rows, grid: (side, side) })
        };
        let exact = |prefix_rows: usize| {
            let grid = wanted.filter(|w| prefix_rows + w.0 * w.1 == rows)?;
            let as_square = square(prefix_rows).filter(|_| grid.0 != grid.1);
            Some(as_square.unwrap_or(Table { prefix_rows, grid }))
        };
        // Tables without a row for the class token belong to networks with registers. Otherwise such a layout comes
        // last: CLIP's 50 rows are 1 + 7x7, even if the wanted grid is 10x5.
        let bare = if prefix > 1 { exact(0) } else { None };
        exact(prefix)
            .or_else(|| exact(1))
            .or(bare)
            .or_else(|| square(prefix))
            .or_else(|| square(1))
            .or_else(|| exact(0))
            .or_else(|| square(0))
    }

    /// Converts `data`, the file's table (rows, D), to the wanted grid. The rows of prefix tokens stay as they are.
    pub(super) fn fit(&self, data: &[f32], wanted: Grid, dim: usize) -> Vec<f32> {
        let (for_prefix, positions) = data.split_at(self.prefix_rows * dim);
        let mut fitted = for_prefix.to_vec();
        if self.grid == wanted {
            fitted.extend_from_slice(positions);
        } else {
            fitted.extend(resize(positions, self.grid, wanted, dim));
        }
        fitted
    }
}

/// Resizes a grid (rows, columns, D) as PyTorch's bicubic interpolation does with `antialias=True` and
/// `align_corners=False`: separable, columns first, in f32.
fn resize(data: &[f32], from: Grid, to: Grid, dim: usize) -> Vec<f32> {
    let mut wide = vec![0.0f32; from.0 * to.1 * dim];
    for (column, (first, weights)) in filters(from.1, to.1).iter().enumerate() {
        for row in 0..from.0 {
            let out = &mut wide[(row * to.1 + column) * dim..][..dim];
            for (i, &w) in weights.iter().enumerate() {
                add_scaled(out, w, &data[(row * from.1 + first + i) * dim..][..dim]);
            }
        }
    }
    let mut resized = vec![0.0f32; to.0 * to.1 * dim];
    let line = to.1 * dim;
    for (row, (first, weights)) in filters(from.0, to.0).iter().enumerate() {
        let out = &mut resized[row * line..][..line];
        for (i, &w) in weights.iter().enumerate() {
            add_scaled(out, w, &wide[(first + i) * line..][..line]);
        }
    }
    resized
}

/// `out` += `weight`·`values`.
fn add_scaled(out: &mut [f32], weight: f32, values: &[f32]) {
    for (o, v) in out.iter_mut().zip(values) {
        *o += weight * v;
    }
}

/// Computes for each of `to` outputs the first of its inputs, of `from` in all, and their weights, which sum to 1.
fn filters(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f32 / to as f32;
    // Shrinking widens the filter, so that it covers every input.
    let widening = scale.max(1.0);
    let support = 2.0 * widening;
    (0..to)
        .map(|place| {
            let center = scale * (place as f32 + 0.5);
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let mut weights: Vec<f32> =
                (first..end).map(|i| cubic((i as f32 - center + 0.5) / widening)).collect();
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
            (first, weights)
        })
        .collect()
}

/// Keys' cubic kernel with a = -0.5, which is zero beyond ±2.
fn cubic(x: f32) -> f32 {
    const A: f32 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * A - 4.0 * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows: usize, prefix: usize, wanted: Option<Grid>) -> Option<(usize, Grid)> {
        Table::read(rows, prefix, None, wanted).map(|t| (t.prefix_rows, t.grid))
    }

    #[test]
    fn rows_are_assigned_to_tokens() {
        // The class token and a square.
        assert_eq!(read(197, 1, None), Some((1, (14, 14))));
        assert_eq!(read(197, 1, Some((14, 7))), Some((1, (14, 14))));
        // A distillation token with its row.
        assert_eq!(read(198, 2, None), Some((2, (14, 14))));
        // Registers without rows; registers and class token without rows; all with rows.
        assert_eq!(read(1370, 5, None), Some((1, (37, 37))));
        assert_eq!(read(1369, 5, None), Some((0, (37, 37))));
        assert_eq!(read(1374, 5, None), Some((5, (37, 37))));
        // Not square: fits only its own grid.
        assert_eq!(read(13, 1, Some((6, 2))), Some((1, (6, 2))));
        assert_eq!(read(13, 1, Some((7, 2))), None);
        assert_eq!(read(13, 1, None), None);
        // A square for a wanted grid that isn't square: resized.
        assert_eq!(read(17, 1, Some((2, 8))), Some((1, (4, 4))));
        // Positions only.
        assert_eq!(read(16, 1, Some((4, 4))), Some((0, (4, 4))));
        assert_eq!(read(12, 4, Some((4, 3))), Some((0, (4, 3))));
        // 50 rows are 1 + 7x7 even if 10x5 is wanted.
        assert_eq!(read(50, 1, Some((10, 5))), Some((1, (7, 7))));
        for rows in [0, 1] {
            assert_eq!(read(rows, 2, None).map(|r| r.1), [None, Some((1, 1))][rows]);
        }
    }

    #[test]
    fn a_stored_grid_leaves_nothing_to_guess() {
        let read =
            |rows, prefix, stored| Table::read(rows, prefix, Some(stored), Some((18, 8))).map(|t| t.grid);
        assert_eq!(read(145, 1, (18, 8)), Some((18, 8)));
        assert_eq!(read(145, 1, (12, 12)), Some((12, 12)));
        assert_eq!(read(145, 1, (7, 7)), None);
        assert_eq!(read(145, 1, (usize::MAX, 3)), None);
    }

    #[test]
    fn rows_of_prefix_tokens_are_not_resized() {
        let table = Table { prefix_rows: 2, grid: (1, 2) };
        assert_eq!(table.fit(&[9.0, 8.0, 1.0, 2.0], (1, 2), 1), [9.0, 8.0, 1.0, 2.0]);
        assert_eq!(table.fit(&[9.0, 8.0, 1.0, 1.0], (3, 1), 1), [9.0, 8.0, 1.0, 1.0, 1.0]);
        let bare = Table { prefix_rows: 0, grid: (1, 2) };
        assert_eq!(bare.fit(&[1.0, 2.0], (1, 2), 1), [1.0, 2.0]);
    }

    /// Input of the golden values: one number per position.
    fn ramp(grid: Grid) -> Vec<f32> {
        (0..grid.0 * grid.1).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    #[rustfmt::skip]
    fn resizing_equals_pytorch() {
        // torch 2.15, F.interpolate(mode='bicubic', antialias=True, align_corners=False).
        let goldens: [(Grid, Grid, &[f32]); 5] = [
            ((4, 4), (7, 5), &[
                -1.1065866, -0.6064022, 0.2518179, 0.2256035, -0.9368857, -0.7873161, -0.1679252,
                0.1796447, -0.0447049, -0.5004813, -0.1661312, 0.5346395, 0.0510336, -0.4696635,
                0.1613789, 0.5533954, 0.2704501, -0.0028906, -0.225017, -0.4116827, 0.9141061,
                -0.0902676, -0.035319, 0.0196295, -0.9847443, 0.1598259, 0.2422714, -0.0815289,
                -0.4053293, -0.3228837, -0.3246258, 0.4645315, -0.1055529, -0.6756374, 0.1135201]),
            ((5, 5), (3, 4), &[
                -0.3532989, -0.1116615, 0.1411581, -0.2349487, 0.2228287, -0.4717664, 0.3481227,
                -0.0990155, 0.0013078, 0.0458981, -0.4097203, 0.6695915]),
            ((3, 6), (6, 3), &[
                -0.531361, -0.2014167, 0.2235516, -0.4235464, -0.0609378, 0.0635098, -0.1952582,
                0.2367933, -0.2756645, -0.0342962, 0.2407348, -0.2936759, 0.0381914, -0.0496311,
                0.0118419, 0.0724957, -0.18663, 0.1559808]),
            ((16, 16), (14, 7), &[
                -0.3417374, -0.0959408, 0.0087714, 0.2189904, -0.110147, -0.1486416, -0.1201752,
                0.0163255, 0.3102135, -0.1188857, -0.0794868, -0.0522131]),
            ((14, 14), (24, 8), &[
                -0.6469666, -0.0375025, -0.1496671, -0.0390968, 0.3838661, 0.1012412, -0.5131313,
                0.146541, -0.553651, 0.0539056, -0.0391788, 0.1240871]),
        ];
        for (from, to, expected) in goldens {
            let found = resize(&ramp(from), from, to, 1);
            assert_eq!(found.len(), to.0 * to.1);
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() <= 1e-6, "{from:?} to {to:?}: {f} is not {e}");
            }
        }
    }

    #[test]
    fn vectors_are_resized_element_by_element() {
        let (a, b) = (ramp((4, 4)), ramp((5, 4)));
        let pairs: Vec<f32> = a.iter().zip(&b).flat_map(|(&x, &y)| [x, y]).collect();
        let both = resize(&pairs, (4, 4), (6, 3), 2);
        for (i, part) in [a, b[..16].to_vec()].iter().enumerate() {
            let alone = resize(part, (4, 4), (6, 3), 1);
            assert!(both.iter().skip(i).step_by(2).eq(alone.iter()));
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        assert_eq!(resize(&ramp((5, 3)), (5, 3), (5, 3), 1), ramp((5, 3)));
    }
}
