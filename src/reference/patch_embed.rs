//! patches\[m,n\] = bias\[n\] + Σ_k pixel(m,k)·weight\[n,k\], written as a convolution, and its gradients.

use super::Exact;

/// The operands of a patch embedding.
#[derive(Debug, Clone, Copy)]
pub struct PatchEmbed<'a> {
    /// Images (B, 3, height, width).
    pub image: &'a [f32],
    /// Weights (D, 3, P, P).
    pub weight: &'a [f32],
    /// Biases (D).
    pub bias: Option<&'a [f32]>,
    /// Height of an image in pixels.
    pub height: usize,
    /// Width of an image in pixels.
    pub width: usize,
    /// Side of a patch in pixels P.
    pub patch: usize,
    /// Step between patches in pixels.
    pub stride: usize,
}

impl PatchEmbed<'_> {
    /// Rows and columns of patches (paper eq. 1).
    pub fn grid(&self) -> (usize, usize) {
        ((self.height - self.patch) / self.stride + 1, (self.width - self.patch) / self.stride + 1)
    }

    /// patches\[m,n\]; m counts images, then rows, then columns.
    pub fn at(&self, m: usize, n: usize) -> Exact {
        let (rows, columns) = self.grid();
        let (b, gy, gx) = (m / (rows * columns), m / columns % rows, m % columns);
        let mut sum = Exact::default();
        for c in 0..3 {
            for ky in 0..self.patch {
                for kx in 0..self.patch {
                    let (y, x) = (gy * self.stride + ky, gx * self.stride + kx);
                    let pixel = self.image[((b * 3 + c) * self.height + y) * self.width + x];
                    let weight = self.weight[((n * 3 + c) * self.patch + ky) * self.patch + kx];
                    let product = f64::from(pixel) * f64::from(weight);
                    sum.value += product;
                    sum.scale += product.abs();
                }
            }
        }
        if let Some(bias) = self.bias {
            sum.value += f64::from(bias[n]);
            sum.scale += f64::from(bias[n]).abs();
        }
        sum
    }

    /// dweight\[n, k\] for dtokens (B, prefix + N, dim), of which the rows of patches count; k counts channels, then
    /// rows, then columns of a patch. Without k: dbias\[n\]. Reads neither weight nor bias.
    pub fn gradient(&self, dtokens: &[f32], prefix: usize, dim: usize, n: usize, k: Option<usize>) -> Exact {
        let (rows, columns) = self.grid();
        let tokens = prefix + rows * columns;
        let mut sum = Exact::default();
        for b in 0..dtokens.len() / (tokens * dim) {
            for gy in 0..rows {
                for gx in 0..columns {
                    let pixel = k.map_or(1.0, |k| {
                        let (c, ky, kx) =
                            (k / self.patch.pow(2), k / self.patch % self.patch, k % self.patch);
                        let (y, x) = (gy * self.stride + ky, gx * self.stride + kx);
                        f64::from(self.image[((b * 3 + c) * self.height + y) * self.width + x])
                    });
                    let row = b * tokens + prefix + gy * columns + gx;
                    let product = f64::from(dtokens[row * dim + n]) * pixel;
                    sum.value += product;
                    sum.scale += product.abs();
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_patch_sees_its_own_pixels() {
        // A weight with a single 1 selects one pixel of each patch: channel 1, lower right corner.
        let image: Vec<f32> = (0..3 * 4 * 5).map(|i| i as f32).collect();
        let mut weight = vec![0.0; 12];
        weight[7] = 1.0;
        let embed = PatchEmbed {
            image: &image,
            weight: &weight,
            bias: Some(&[0.5]),
            height: 4,
            width: 5,
            patch: 2,
            stride: 2,
        };
        assert_eq!(embed.grid(), (2, 2));
        let picked: Vec<f64> = (0..4).map(|m| embed.at(m, 0).value).collect();
        assert_eq!(picked, [26.5, 28.5, 36.5, 38.5]);
        assert_eq!(PatchEmbed { stride: 1, ..embed }.grid(), (3, 4));
        // One prefix token, whose gradient must be ignored.
        let dtokens = [9.0, 1.0, 0.0, 0.0, 10.0];
        assert_eq!(embed.gradient(&dtokens, 1, 1, 0, Some(7)).value, 26.0 + 380.0);
        assert_eq!(embed.gradient(&dtokens, 1, 1, 0, None).value, 11.0);
    }
}
