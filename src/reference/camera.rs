//! y = x + weight·table\[camera\], with one camera per image.

use super::Exact;

/// One element of y, from those of x and of the row of the image's camera.
pub fn forward(x: f32, weight: f32, row: f32) -> Exact {
    let (x, product) = (f64::from(x), f64::from(weight) * f64::from(row));
    Exact { value: x + product, scale: x.abs() + product.abs() }
}

/// dtable\[row, d\]: weight·Σ dy\[b, t, d\] over all tokens of the images b by that camera. `length` is T·D.
pub fn gradient(
    dy: &[f32],
    cameras: &[u32],
    weight: f32,
    [length, dim]: [usize; 2],
    [row, d]: [usize; 2],
) -> Exact {
    let own = cameras.iter().zip(dy.chunks(length)).filter(|(camera, _)| **camera as usize == row);
    let mut sum = Exact::default();
    for token in own.flat_map(|(_, image)| image.chunks(dim)) {
        sum.value += f64::from(token[d]);
        sum.scale += f64::from(token[d]).abs();
    }
    sum.times(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gets_the_sum_of_its_images_tokens() {
        // Three images of two tokens of one element.
        let dy = [1.0, 2.0, 10.0, -20.0, 100.0, 200.0];
        let of = |row| gradient(&dy, &[1, 0, 1], 3.0, [2, 1], [row, 0]);
        assert_eq!(of(0), Exact { value: -30.0, scale: 90.0 });
        assert_eq!(of(1), Exact { value: 909.0, scale: 909.0 });
        assert_eq!(of(2), Exact::default());
        assert_eq!(forward(1.0, 3.0, -2.0), Exact { value: -5.0, scale: 7.0 });
    }
}
