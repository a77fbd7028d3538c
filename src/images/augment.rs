//! Augments training images: random crops of the padded image, and random erasing.
//!
//! Both work on bytes of the input size, before the adapter mirrors and normalises. Mirroring doesn't change the
//! distribution of crops and rectangles. The fill is the mean colour, which normalises to about zero, or noise, which
//! the adapter draws after normalisation.

use crate::images::decode::Rgb;
use crate::rng;
use serde::{Deserialize, Serialize};

// Streams of random numbers, besides those of `datasets`. The upper byte is the use, the rest is the epoch.
const CROP: u64 = 6 << 56;
const ERASE: u64 = 7 << 56;

/// Random numbers per image in a stream.
const DRAWS: u64 = 512;

/// Most attempts to draw a rectangle that fits, each with four random numbers [Zhong et al. 2017, alg. 1].
pub const MOST_ATTEMPTS: usize = 100;

/// Smallest erased share of the image, and smallest ratio of height to width of the rectangle.
const LEAST_AREA: f64 = 0.02;
const ASPECT: f64 = 0.3;

/// Contents of erased rectangles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErasingFill {
    /// The mean colour.
    Mean,
    /// A normal number of mean 0 and deviation 1 for each pixel and channel, after normalisation.
    Noise,
}

/// Distribution of the ratio of height to width of erased rectangles, from 0.3 to 1/0.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErasingAspect {
    /// Uniform: more rectangles are higher than wide.
    Uniform,
    /// Uniform in its logarithm: as many are higher than wide as wider than high.
    Log,
}

/// Options of augmentation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augment {
    /// Black pixels on each side of the image before a random crop of its size; 0 disables cropping.
    pub crop_pad: usize,
    /// Probability of erasing a rectangle.
    pub erasing: f64,
    /// Largest erased share of the image; the smallest is 2 %.
    pub area_max: f64,
    /// Ratio of height to width.
    pub aspect: ErasingAspect,
    /// Attempts to draw a rectangle that fits, up to [`MOST_ATTEMPTS`].
    pub attempts: usize,
    /// Colour of the rectangle, RGB; `None` leaves it to the adapter to fill it with noise.
    pub fill: Option<[u8; 3]>,
}

impl Augment {
    /// Augments the image at `place` of an epoch, and returns the rectangle that is left to fill with noise, empty if
    /// there is none. The result depends on seed, epoch and place alone.
    pub fn apply(&self, image: &mut Rgb, seed: u64, epoch: u64, place: usize) -> Rectangle {
        let draw =
            |stream: u64, i: u64| f64::from(rng::uniform(seed, stream | epoch, place as u64 * DRAWS + i));
        if self.crop_pad > 0 {
            let choices = (2 * self.crop_pad + 1) as f64;
            let [down, right] =
                [0, 1].map(|axis| (draw(CROP, axis) * choices) as isize - self.crop_pad as isize);
            shift(image, down, right);
        }
        if self.erasing > 0.0
            && draw(ERASE, 0) < self.erasing
            && let Some(rectangle) = self.rectangle(image, &|i| draw(ERASE, i))
        {
            let Some(colour) = self.fill else { return rectangle };
            let Rectangle { top, left, height, width } = rectangle;
            for y in top..top + height {
                let row = &mut image.pixels[3 * (y * image.width + left)..][..3 * width];
                row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&colour));
            }
        }
        Rectangle::default()
    }

    /// Draws the rectangle to erase; `None` if no attempt fits, as in a very flat image.
    fn rectangle(&self, image: &Rgb, draw: &dyn Fn(u64) -> f64) -> Option<Rectangle> {
        let area = (image.height * image.width) as f64;
        (0..self.attempts as u64).find_map(|attempt| {
            let [share, shape, down, right] = [1, 2, 3, 4].map(|i| draw(4 * attempt + i));
            let erased = area * (LEAST_AREA + share * (self.area_max - LEAST_AREA));
            let aspect = match self.aspect {
                ErasingAspect::Uniform => ASPECT + shape * (1.0 / ASPECT - ASPECT),
                ErasingAspect::Log => ASPECT.powf(1.0 - 2.0 * shape),
            };
            let height = (erased * aspect).sqrt().round() as usize;
            let width = (erased / aspect).sqrt().round() as usize;
            let fits = (1..image.height).contains(&height) && (1..image.width).contains(&width);
            fits.then(|| Rectangle {
                top: (down * (image.height - height + 1) as f64) as usize,
                left: (right * (image.width - width + 1) as f64) as usize,
                height,
                width,
            })
        })
    }
}

/// Shifts an image: pixel (y, x) becomes pixel (y + down, x + right), or black outside of the image.
fn shift(image: &mut Rgb, down: isize, right: isize) {
    let Rgb { height, width, pixels } = &*image;
    let mut moved = vec![0; pixels.len()];
    for y in 0..*height {
        let Some(from_y) = y.checked_add_signed(down).filter(|from| from < height) else { continue };
        for x in 0..*width {
            let Some(from_x) = x.checked_add_signed(right).filter(|from| from < width) else { continue };
            let (to, from) = (3 * (y * width + x), 3 * (from_y * width + from_x));
            moved[to..to + 3].copy_from_slice(&pixels[from..from + 3]);
        }
    }
    image.pixels = moved;
}

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rectangle {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Rectangle {
    /// Top, left, height and width.
    pub fn words(self) -> [u32; 4] {
        [self.top, self.left, self.height, self.width].map(|length| length as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Augment = Augment {
        crop_pad: 0,
        erasing: 0.0,
        area_max: 0.4,
        aspect: ErasingAspect::Uniform,
        attempts: MOST_ATTEMPTS,
        fill: Some([1, 2, 3]),
    };

    /// An image of distinct pixels, none of them black or of the fill colour.
    fn image(height: usize, width: usize) -> Rgb {
        let pixel = |i: usize| [(i / 250) as u8 + 10, (i % 250) as u8 + 5, 200];
        Rgb { height, width, pixels: (0..height * width).flat_map(pixel).collect() }
    }

    #[test]
    fn nothing_is_asked_and_nothing_happens() {
        let mut changed = image(9, 7);
        NONE.apply(&mut changed, 1, 2, 3);
        assert_eq!(changed.pixels, image(9, 7).pixels);
    }

    #[test]
    fn a_crop_moves_the_image_and_pads_with_black() {
        let (whole, mut seen) = (image(12, 8), std::collections::BTreeSet::new());
        for place in 0..2000 {
            let mut cropped = whole.clone();
            Augment { crop_pad: 2, ..NONE }.apply(&mut cropped, 5, 0, place);
            let at = |p: &Rgb, y: isize, x: isize| -> [u8; 3] {
                let inside = (0..12).contains(&y) && (0..8).contains(&x);
                if !inside {
                    return [0; 3];
                }
                p.pixels[3 * (y * 8 + x) as usize..][..3].try_into().unwrap()
            };
            let offsets = (-2..=2).flat_map(|down| (-2..=2).map(move |right| (down, right)));
            let matching: Vec<(isize, isize)> = offsets
                .filter(|(down, right)| {
                    (0..12).all(|y| (0..8).all(|x| at(&cropped, y, x) == at(&whole, y + down, x + right)))
                })
                .collect();
            assert_eq!(matching.len(), 1, "place {place}");
            seen.insert(matching[0]);
        }
        assert_eq!(seen.len(), 25);
    }

    #[test]
    fn about_half_of_the_images_lose_a_rectangle_of_allowed_size_and_shape() {
        let augment = Augment { erasing: 0.5, ..NONE };
        let (mut erased, mut shares) = (0, Vec::new());
        for place in 0..2000 {
            let mut changed = image(64, 32);
            augment.apply(&mut changed, 7, 1, place);
            let gone: Vec<(usize, usize)> = (0..64 * 32)
                .filter(|i| changed.pixels[3 * i..3 * i + 3] == [1, 2, 3])
                .map(|i| (i / 32, i % 32))
                .collect();
            if gone.is_empty() {
                assert_eq!(changed.pixels, image(64, 32).pixels);
                continue;
            }
            erased += 1;
            let range = |of: &dyn Fn(&(usize, usize)) -> usize| {
                let (low, high) = (gone.iter().map(of).min().unwrap(), gone.iter().map(of).max().unwrap());
                high - low + 1
            };
            let (height, width) = (range(&|p| p.0), range(&|p| p.1));
            assert_eq!(gone.len(), height * width, "place {place}: a rectangle");
            let share = gone.len() as f64 / (64.0 * 32.0);
            // Rounded sides exceed the bounds a little.
            assert!((0.015..0.43).contains(&share), "{share}");
            let aspect = height as f64 / width as f64;
            assert!((0.2..4.5).contains(&aspect), "{aspect}");
            shares.push(share);
        }
        assert!((900..1100).contains(&erased), "{erased} of 2000");
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!((0.17..0.25).contains(&mean), "{mean}");
    }

    #[test]
    fn the_same_place_of_the_same_epoch_is_changed_alike() {
        let augment = Augment { crop_pad: 3, erasing: 1.0, ..NONE };
        let change = |seed, epoch, place| {
            let mut changed = image(20, 10);
            augment.apply(&mut changed, seed, epoch, place);
            changed.pixels
        };
        assert_eq!(change(1, 2, 3), change(1, 2, 3));
        let others = [change(1, 2, 4), change(1, 3, 3), change(2, 2, 3)];
        assert!(others.iter().all(|other| *other != change(1, 2, 3)));
    }

    #[test]
    fn an_image_that_no_rectangle_fits_stays() {
        let mut flat = image(1, 40);
        Augment { erasing: 1.0, ..NONE }.apply(&mut flat, 1, 1, 1);
        assert_eq!(flat.pixels, image(1, 40).pixels);
    }

    /// The rectangles of 2000 images of 64 × 32 pixels.
    fn rectangles(augment: Augment) -> Vec<Rectangle> {
        let draw = |place| {
            let mut unchanged = image(64, 32);
            let rectangle = augment.apply(&mut unchanged, 7, 1, place);
            assert_eq!(unchanged.pixels, image(64, 32).pixels);
            rectangle
        };
        (0..2000).map(draw).collect()
    }

    #[test]
    fn rectangles_for_noise_are_those_of_the_mean_and_leave_the_bytes() {
        let mean = Augment { erasing: 0.5, ..NONE };
        for (place, found) in rectangles(Augment { fill: None, ..mean }).into_iter().enumerate() {
            let mut wanted = image(64, 32);
            let Rectangle { top, left, height, width } = found;
            for pixel in (top..top + height).flat_map(|y| (left..left + width).map(move |x| y * 32 + x)) {
                wanted.pixels[3 * pixel..][..3].copy_from_slice(&[1, 2, 3]);
            }
            let mut filled = image(64, 32);
            assert_eq!(mean.apply(&mut filled, 7, 1, place), Rectangle::default());
            assert_eq!(filled.pixels, wanted.pixels, "place {place}");
        }
    }

    #[test]
    fn area_aspect_and_attempts_follow_their_keys() {
        let noise = Augment { erasing: 1.0, fill: None, ..NONE };
        let log = rectangles(Augment { area_max: 1.0 / 3.0, aspect: ErasingAspect::Log, ..noise });
        let aspect = |r: &Rectangle| r.height as f64 / r.width as f64;
        let count = |all: &[Rectangle], holds: &dyn Fn(&Rectangle) -> bool| {
            all.iter().filter(|r| r.height > 0 && holds(r)).count()
        };
        let share = |r: &Rectangle| (r.height * r.width) as f64 / 2048.0;
        assert!(log.iter().all(|r| (0.015..0.36).contains(&share(r)) && (0.2..4.5).contains(&aspect(r))));
        assert!(count(&rectangles(noise), &|r| share(r) > 0.36) > 100);
        // Half of the ratios are below 1, except for those that are too wide; of uniform ratios a quarter.
        assert!((800..1000).contains(&count(&log, &|r| aspect(r) < 1.0)), "{log:?}");
        assert!(count(&rectangles(noise), &|r| aspect(r) < 1.0) < 500);
        // Some of the first attempts don't fit.
        let once = rectangles(Augment { attempts: 1, ..noise });
        assert!((1000..2000).contains(&count(&once, &|_| true)));
        assert_eq!(count(&rectangles(noise), &|_| true), 2000);
    }
}
