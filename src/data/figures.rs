//! Simple walking figures to try the program with: drawn, so anybody's to use.
//!
//! Each person has a build and clothes of their own, each camera a place and a light of its own, each image another
//! moment of the walk. Files are named as in Market-1501, which re-identification tools read person and camera from.

use std::f32::consts::TAU;
use std::path::Path;

use image::{Rgb, RgbImage};

use crate::error::{Error, Result};
use crate::rng::uniform;

/// Size of a picture in pixels: that of Market-1501's.
const WIDTH: u32 = 64;
const HEIGHT: u32 = 128;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Number of persons, called 0001 and on.
    pub persons: u32,
    /// Number of cameras, called c1 and on.
    pub cameras: u32,
    /// Pictures of each person by each camera.
    pub images: u32,
    /// Another seed, other persons and places.
    pub seed: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Figures { persons: 8, cameras: 2, images: 2, seed: 0 }
    }
}

/// Draws `figures` into the folder `dir` as `PPPP_cCs1_FFFFFF_NN.png` and returns the number of files.
///
/// The folder is created if need be; files of the same names are replaced, others stay. The same `figures` give the
/// same bytes.
///
/// # Errors
/// `Usage` where a number doesn't fit into the file names or is 0, `Io` where the folder can't be written.
pub fn draw_figures(dir: &Path, figures: Figures) -> Result<usize> {
    let counts = [
        ("persons", figures.persons, 9_999),
        ("cameras", figures.cameras, 9),
        ("images", figures.images, 9_999),
    ];
    for (what, count, most) in counts {
        if !(1..=most).contains(&count) {
            return Err(Error::Usage(format!("{what} must be 1 to {most}, found {count}")));
        }
    }
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let mut drawn = 0;
    for person in 1..=figures.persons {
        for camera in 1..=figures.cameras {
            for image in 1..=figures.images {
                // A frame number as the time of the walk: 25 frames a step apart.
                let frame = (person - 1) * figures.images + image;
                let path = dir.join(format!("{person:04}_c{camera}s1_{:06}_00.png", frame * 25 % 1_000_000));
                let picture = draw(figures.seed, person, camera, image);
                let mut bytes = std::io::Cursor::new(Vec::new());
                picture
                    .write_to(&mut bytes, image::ImageFormat::Png)
                    .map_err(|e| Error::Image { path: path.clone(), reason: e.to_string() })?;
                std::fs::write(&path, bytes.into_inner()).map_err(Error::io("write", &path))?;
                drawn += 1;
            }
        }
    }
    Ok(drawn)
}

type Colour = [f32; 3];
type Point = [f32; 2];

/// A run of random numbers of one thing: a person, a camera, or one picture.
struct Dice {
    seed: u64,
    stream: u64,
    next: u64,
}

impl Dice {
    fn new(seed: u64, kind: u64, number: u64) -> Self {
        Dice { seed, stream: (kind << 48) | number, next: 0 }
    }

    /// A number in [from, to).
    fn roll(&mut self, from: f32, to: f32) -> f32 {
        self.next += 1;
        from + (to - from) * uniform(self.seed, self.stream, self.next)
    }

    fn colour(&mut self) -> Colour {
        [self.roll(0.05, 0.95), self.roll(0.05, 0.95), self.roll(0.05, 0.95)]
    }
}

/// One picture: the camera's place, the person in it, the camera's light over both.
fn draw(seed: u64, person: u32, camera: u32, image: u32) -> RgbImage {
    let mut body = Dice::new(seed, 1, u64::from(person));
    let mut place = Dice::new(seed, 2, u64::from(camera));
    let number = (u64::from(person) << 32) | (u64::from(camera) << 16) | u64::from(image);
    let mut moment = Dice::new(seed, 3, number);

    let mut canvas = Canvas::new();
    draw_place(&mut canvas, &mut place);
    let phase = moment.roll(0.0, TAU);
    let middle = WIDTH as f32 / 2.0 + moment.roll(-4.0, 4.0);
    let to_left = moment.roll(0.0, 1.0) < 0.5;
    draw_person(&mut canvas, &mut body, phase, middle, if to_left { -1.0 } else { 1.0 });

    let light = [place.roll(0.75, 1.1), place.roll(0.75, 1.1), place.roll(0.75, 1.1)];
    let noise = Dice::new(seed, 4, number);
    let mut picture = RgbImage::new(WIDTH, HEIGHT);
    for (index, (pixel, colour)) in picture.pixels_mut().zip(&canvas.pixels).enumerate() {
        let grain = 0.04 * (uniform(noise.seed, noise.stream, index as u64) - 0.5);
        let value = |c: usize| ((colour[c] * light[c] + grain).clamp(0.0, 1.0) * 255.0) as u8;
        *pixel = Rgb([value(0), value(1), value(2)]);
    }
    picture
}

/// Wall, ground and two posts.
fn draw_place(canvas: &mut Canvas, place: &mut Dice) {
    // Paler than clothes are.
    let mut pale = || place.colour().map(|c| 0.3 + 0.4 * c);
    let (wall, ground, post) = (pale(), pale(), pale());
    let horizon = place.roll(70.0, 105.0);
    canvas.paint(wall, |_| true);
    canvas.paint(ground, |[_, y]| y > horizon);
    for _ in 0..2 {
        let (x, width) = (place.roll(0.0, WIDTH as f32), place.roll(2.0, 6.0));
        canvas.line([x, 0.0], [x, horizon], width, post);
    }
}

/// A person seen from the side, `phase` radians into the walk, facing `way` (1 right, −1 left).
fn draw_person(canvas: &mut Canvas, body: &mut Dice, phase: f32, middle: f32, way: f32) {
    let tall = body.roll(92.0, 112.0);
    let broad = body.roll(0.85, 1.35);
    // Skin from light to dark, along one line of colours.
    let tone = body.roll(0.4, 1.0);
    let skin = [0.95, 0.78, 0.65].map(|c| c * tone);
    let [hair, top, legs, shoes] = [body.colour(), body.colour(), body.colour(), body.colour()];
    let (striped, short_sleeves, short_legs) =
        (body.roll(0.0, 1.0) < 0.3, body.roll(0.0, 1.0) < 0.4, body.roll(0.0, 1.0) < 0.3);
    let bag = (body.roll(0.0, 1.0) < 0.4).then(|| body.colour());

    let feet = 122.0;
    let at = |height: f32| feet - tall * height;
    let bob = phase.sin().abs();
    let (hip, shoulder, neck) = (at(0.50) - bob, at(0.81) - bob, at(0.85) - bob);
    let swing = 0.16 * tall * phase.sin();

    // The far limbs first, darker; then the trunk; then the near ones.
    for (side, shade) in [(-1.0, 0.75), (1.0, 1.0)] {
        let dim = |colour: Colour| colour.map(|c| c * shade);
        let foot = [middle + side * swing, feet - (side * phase.cos()).max(0.0) * 4.0];
        let knee = [middle + side * swing * 0.5 + way * 2.0, (hip + feet) / 2.0];
        canvas.line([middle, hip], knee, 9.0 * broad, dim(legs));
        canvas.line(knee, foot, 7.0 * broad, dim(if short_legs { skin } else { legs }));
        canvas.line(foot, [foot[0] + way * 6.0, foot[1]], 5.0, dim(shoes));

        let elbow = [middle - side * swing * 0.5, (shoulder + hip) / 2.0];
        let hand = [middle - side * swing + way * 3.0, hip + 2.0];
        canvas.line([middle, shoulder + 3.0], elbow, 6.5 * broad, dim(top));
        canvas.line(elbow, hand, 5.5 * broad, dim(if short_sleeves { skin } else { top }));
        canvas.ellipse(hand, [3.0, 3.0], dim(skin));
        if side < 0.0 {
            if let Some(colour) = bag {
                let back = [middle - way * 8.0 * broad, (shoulder + hip) / 2.0 - 3.0];
                canvas.ellipse(back, [6.5, 11.0], colour);
            }
            canvas.line([middle, shoulder + 4.0], [middle, hip], 16.0 * broad, top);
            if striped {
                for stripe in 1..4 {
                    let y = shoulder + (hip - shoulder) * stripe as f32 / 4.0;
                    canvas.line([middle - 6.0 * broad, y], [middle + 6.0 * broad, y], 3.0, legs);
                }
            }
        }
    }
    canvas.line([middle, shoulder], [middle, neck], 5.0, skin);
    let head = [middle + way, at(0.93) - bob];
    canvas.ellipse([head[0] - way * 1.5, head[1] - 1.5], [7.0, 8.5], hair);
    canvas.ellipse([head[0] + way * 1.5, head[1] + 1.0], [5.5, 7.0], skin);
}

/// Pixels with colours in 0..1, rows from the top.
struct Canvas {
    pixels: Vec<Colour>,
}

impl Canvas {
    fn new() -> Self {
        Canvas { pixels: vec![[0.0; 3]; (WIDTH * HEIGHT) as usize] }
    }

    /// Colours every pixel whose middle lies inside.
    fn paint(&mut self, colour: Colour, inside: impl Fn(Point) -> bool) {
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            let (x, y) = (index as u32 % WIDTH, index as u32 / WIDTH);
            if inside([x as f32 + 0.5, y as f32 + 0.5]) {
                *pixel = colour;
            }
        }
    }

    /// An upright ellipse with the half axes `radii`.
    fn ellipse(&mut self, center: Point, radii: Point, colour: Colour) {
        self.paint(colour, |[x, y]| {
            let (u, v) = ((x - center[0]) / radii[0], (y - center[1]) / radii[1]);
            u * u + v * v <= 1.0
        });
    }

    /// A line with round ends.
    fn line(&mut self, from: Point, to: Point, width: f32, colour: Colour) {
        let along = [to[0] - from[0], to[1] - from[1]];
        let length2 = (along[0] * along[0] + along[1] * along[1]).max(1e-6);
        self.paint(colour, |[x, y]| {
            let (u, v) = (x - from[0], y - from[1]);
            let t = ((u * along[0] + v * along[1]) / length2).clamp(0.0, 1.0);
            let (u, v) = (u - t * along[0], v - t * along[1]);
            u * u + v * v <= width * width / 4.0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(figures: Figures) -> Vec<(String, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/folder");
        let count = draw_figures(&folder, figures).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        assert_eq!(files.len(), count);
        files
    }

    #[test]
    fn same_seed_same_bytes_other_seed_other_bytes() {
        let first = drawn(Figures::default());
        assert_eq!(first.len(), 32);
        assert_eq!(first[0].0, "0001_c1s1_000025_00.png");
        assert_eq!(first[31].0, "0008_c2s1_000400_00.png");
        assert!(first == drawn(Figures::default()));
        let other = drawn(Figures { seed: 1, ..Figures::default() });
        assert!(first.iter().zip(&other).all(|(a, b)| a.0 == b.0 && a.1 != b.1));
    }

    #[test]
    fn no_two_pictures_are_alike_and_all_have_the_size() {
        let files = drawn(Figures { persons: 3, ..Figures::default() });
        for (i, (name, bytes)) in files.iter().enumerate() {
            let picture = crate::data::decode::decode(bytes, Default::default()).unwrap();
            assert_eq!((picture.height, picture.width), (128, 64), "{name}");
            assert!(files[..i].iter().all(|other| other.1 != *bytes));
        }
    }

    #[test]
    fn counts_must_fit_into_names() {
        let dir = tempfile::tempdir().unwrap();
        for figures in [
            Figures { persons: 0, ..Figures::default() },
            Figures { cameras: 10, ..Figures::default() },
            Figures { images: 10_000, ..Figures::default() },
        ] {
            assert!(matches!(draw_figures(dir.path(), figures), Err(Error::Usage(_))));
        }
    }
}
