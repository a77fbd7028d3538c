//! A data set of walking figures: drawn, so anybody's to use.
//!
//! Every person has a build, hair and clothes of their own, in colours that many share; every camera has a place, a
//! view, a light and a sensor of its own, so the same clothes look different by each. What moves is the moment: step,
//! direction, crop, blur, and what stands in the way. Laid out and named as Market-1501.

mod canvas;
mod person;
mod place;

use std::path::Path;

use image::{Rgb, RgbImage};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::rng;
use crate::storage::atomic::replace;
use canvas::{Canvas, Dice, Noise, cosine, sine};
use person::{Looks, Pose, View};
use place::Place;

/// Size of an image in pixels: that of Market-1501's.
const WIDTH: usize = 64;
const HEIGHT: usize = 128;
/// Pixels of the canvas for one of the image, each way.
const FINE: usize = 2;

/// Names of persons have four digits: strangers are numbered behind them.
const STRANGERS: u32 = 10_000;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Number of persons, called 0001 and on.
    pub persons: u32,
    /// Number of cameras, called c1 and on.
    pub cameras: u32,
    /// Images of each person by each camera.
    pub images: u32,
    /// Another seed, other persons and places.
    pub seed: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Figures { persons: 32, cameras: 4, images: 4, seed: 0 }
    }
}

/// What an image shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// A person by number; strangers too.
    Person(u32),
    /// Part of somebody, or nobody.
    Junk,
}

/// An image that is to be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    name: String,
    subject: Subject,
    camera: u32,
    image: u32,
}

/// Draws `figures` into the folder `dir` and returns the number of files.
///
/// Persons with odd numbers go to `bounding_box_train`, the others are tested: the first image of each by each camera
/// goes to `query`, the others to `bounding_box_test`. With one image by each camera, only camera 1's are queries. The
/// gallery gets a stranger (`0000`) and a bad detection (`-1`) for every eight of its images. Files are called
/// `PPPP_cCs1_FFFFFF_NN.png` and 128×64 pixels large.
///
/// Folders are created if need be; files of the same names are replaced, others stay. The same `figures` give the
/// same pixels on every machine and, by the same PNG encoder, the same bytes.
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
    for folder in ["bounding_box_train", "query", "bounding_box_test"] {
        let folder = dir.join(folder);
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    }
    let noise = Noise::new(figures.seed);
    let places: Vec<Place> =
        (1..=figures.cameras).map(|camera| Place::roll(figures.seed, camera, &noise)).collect();
    let tasks = tasks(figures);
    tasks.par_iter().try_for_each(|task| {
        let path = dir.join(&task.name);
        let image = draw(figures.seed, task, &places[task.camera as usize - 1], &noise);
        let mut bytes = std::io::Cursor::new(Vec::new());
        image
            .write_to(&mut bytes, image::ImageFormat::Png)
            .map_err(|e| Error::Image { path: path.clone(), reason: e.to_string() })?;
        replace(&path, bytes.get_ref())
    })?;
    Ok(tasks.len())
}

/// All images of a data set.
fn tasks(figures: Figures) -> Vec<Task> {
    let Figures { persons, cameras, images, seed } = figures;
    let mut tasks = Vec::new();
    let mut gallery = 0;
    for person in 1..=persons {
        for camera in 1..=cameras {
            for image in 1..=images {
                let asks = image == 1 && (images > 1 || camera == 1);
                let folder = match (person % 2 == 1, asks) {
                    (true, _) => "bounding_box_train",
                    (false, true) => "query",
                    (false, false) => "bounding_box_test",
                };
                gallery += u32::from(folder == "bounding_box_test");
                // A frame number as the time of the walk: 25 frames a step apart.
                let frame = ((person - 1) * images + image) * 25 % 1_000_000;
                let name = format!("{folder}/{person:04}_c{camera}s1_{frame:06}_00.png");
                tasks.push(Task { name, subject: Subject::Person(person), camera, image });
            }
        }
    }
    let few = gallery.div_ceil(8).min(9_999);
    let mut dice = Dice::new(seed, 7, 0);
    for i in 1..=few {
        for (name, subject) in [("0000", Subject::Person(STRANGERS + i)), ("-1", Subject::Junk)] {
            let camera = 1 + dice.roll(0.0, cameras as f32) as u32;
            let name = format!("bounding_box_test/{name}_c{camera}s1_{:06}_01.png", i * 25);
            tasks.push(Task { name, subject, camera, image: i });
        }
    }
    tasks
}

/// One image: the place, the person in it, what the camera makes of both.
fn draw(seed: u64, task: &Task, place: &Place, noise: &Noise) -> RgbImage {
    let whom = match task.subject {
        Subject::Person(person) => person,
        Subject::Junk => 2 * STRANGERS + task.image,
    };
    let number = (u64::from(whom) << 32) | (u64::from(task.camera) << 16);
    // What stays the same while a person passes a camera, and what doesn't.
    let mut passage = Dice::new(seed, 3, number);
    let mut moment = Dice::new(seed, 4, number | u64::from(task.image));
    let looks = Looks::roll(&mut Dice::new(seed, 1, u64::from(whom)));
    let (width, height) = ((WIDTH * FINE) as f32, (HEIGHT * FINE) as f32);
    let mut canvas = Canvas::new(WIDTH * FINE, HEIGHT * FINE);

    // The way through the place: most go as the place is built.
    let usual = if place.across { [0.25, 0.75] } else { [0.0, 0.5] };
    let unusual = if place.across { [0.0, 0.5] } else { [0.25, 0.75] };
    let ways = if passage.chance(0.8) { usual } else { unusual };
    let way = ways[usize::from(passage.chance(0.5))] + passage.roll(-0.06, 0.06);
    let heading = way + moment.roll(-0.03, 0.03);
    let left = passage.roll(0.0, 1.0) + 0.06 * sine(way) * task.image as f32;
    place.cut(&mut canvas, left - left.floor(), moment.roll(0.7, 1.0), moment.roll(0.85, 1.2));

    // The detector's box: about right as a rule.
    let mut scale = height * moment.roll(0.94, 1.07);
    let mut feet = [width * (0.5 + moment.roll(-0.07, 0.07)), height * moment.roll(0.96, 0.995)];
    if moment.chance(0.16) {
        // Too small a box: feet or head are missing, or a side.
        scale *= moment.roll(1.12, 1.45);
        feet[1] = if moment.chance(0.5) { height * 0.97 } else { scale * moment.roll(0.97, 1.03) };
        feet[0] += width * moment.roll(-0.12, 0.12);
    }
    if task.subject == Subject::Junk {
        scale *= moment.roll(1.5, 2.6);
        feet =
            [width * moment.choose(&[(1.0, -0.15), (1.0, 1.15), (1.0, 0.3)]), scale * moment.roll(0.5, 1.3)];
    }
    let view = View { feet, scale, above: place.above, light: place.light };
    let other = |moment: &mut Dice| {
        let looks = Looks::roll(moment);
        let pose = Pose { heading: ways[usize::from(moment.chance(0.5))], phase: moment.roll(0.0, 1.0) };
        (looks, pose)
    };
    // Somebody behind.
    if moment.chance(0.18) {
        let (looks, pose) = other(&mut moment);
        let aside = moment.choose(&[(1.0, -1.0), (1.0, 1.0)]) * moment.roll(0.25, 0.55);
        let feet = [feet[0] + width * aside, feet[1] - height * moment.roll(0.03, 0.1)];
        let view = View { feet, scale: scale * moment.roll(0.75, 0.92), ..view };
        person::draw(&mut canvas, &looks, pose, view, noise, moment.roll(0.0, 60.0));
    }
    let dark = moment.roll(0.55, 0.8);
    let shadow = [feet[0] - place.light[0] * 0.14 * scale, feet[1] - 2.0];
    draw_shadow(&mut canvas, shadow, [0.2 * scale, (0.02 + 0.05 * place.above) * scale], dark);
    let phase = passage.roll(0.0, 1.0) + task.image as f32 * 0.37 + moment.roll(-0.08, 0.08);
    person::draw(&mut canvas, &looks, Pose { heading, phase }, view, noise, moment.roll(0.0, 60.0));
    draw_obstacle(&mut canvas, &mut moment, view, noise, other);

    blur(&mut canvas, &mut moment, place, heading);
    let coarse = place.coarse * moment.roll(0.9, 1.25);
    let sensor = |size: usize| ((size as f32 / coarse.max(1.0)) as usize).max(1);
    let canvas = canvas.resized(sensor(WIDTH), sensor(HEIGHT)).resized(WIDTH, HEIGHT);
    let bright = passage.roll(0.88, 1.12) * moment.roll(0.93, 1.07);
    let mut image = RgbImage::new(WIDTH as u32, HEIGHT as u32);
    for (index, (pixel, colour)) in image.pixels_mut().zip(&canvas.pixels).enumerate() {
        let colour = place.develop(*colour, bright);
        // Noise of all colours, and a little of each.
        let grains = rng::bits(seed, (5 << 48) | number | u64::from(task.image), index as u64).to_le_bytes();
        let uniform = |which: usize| f32::from(grains[which]) / 255.0 - 0.5;
        let value = |c: usize| {
            let grain = place.grain * (uniform(3) + 0.6 * uniform(c));
            ((colour[c] + grain).clamp(0.0, 1.0) * 255.0 + 0.5) as u8
        };
        *pixel = Rgb([value(0), value(1), value(2)]);
    }
    image
}

/// Darkens the ground in an ellipse with a soft edge.
fn draw_shadow(canvas: &mut Canvas, middle: [f32; 2], radii: [f32; 2], dark: f32) {
    let corner = |sign: f32| [middle[0] + sign * radii[0], middle[1] + sign * radii[1]];
    canvas.paint(corner(-1.0), corner(1.0), |x, y, old| {
        let (u, v) = ((x - middle[0]) / radii[0], (y - middle[1]) / radii[1]);
        let inside = (1.0 - u * u - v * v).max(0.0);
        Some(old.map(|c| c * (1.0 - (1.0 - dark) * inside.sqrt())))
    });
}

/// Something in front of the person, in every fourth image or so.
fn draw_obstacle(
    canvas: &mut Canvas,
    moment: &mut Dice,
    view: View,
    noise: &Noise,
    other: impl Fn(&mut Dice) -> (Looks, Pose),
) {
    let (width, height) = (canvas.width as f32, canvas.height as f32);
    let side = moment.choose(&[(1.0, -1.0), (1.0, 1.0)]);
    let colour =
        moment.choose(&[(3.0, [0.36, 0.36, 0.37]), (2.0, [0.17, 0.30, 0.13]), (1.0, [0.33, 0.23, 0.16])]);
    let colour = moment.near(colour, 0.09);
    match (moment.roll(0.0, 1.0) * 20.0) as u32 {
        // Somebody nearer, at the edge.
        0 | 1 => {
            let (looks, pose) = other(moment);
            let feet = [
                width * (0.5 + side * moment.roll(0.38, 0.6)),
                view.feet[1] + height * moment.roll(0.03, 0.15),
            ];
            let view = View { feet, scale: view.scale * moment.roll(1.02, 1.15), ..view };
            person::draw(canvas, &looks, pose, view, noise, moment.roll(0.0, 60.0));
        }
        2 => {
            let (x, thick) = (width * (0.5 + side * moment.roll(0.1, 0.4)), moment.roll(4.0, 9.0));
            canvas.bar([x, -9.0], [x, height + 9.0], [thick, thick], |_, [u, _, _]| {
                colour.map(|c| c * (1.0 - 0.35 * u))
            });
        }
        // A low wall or a hedge.
        3 => {
            let top = height * moment.roll(0.62, 0.85);
            canvas.paint([0.0, top], [width, height], |x, y, _| {
                let rough = noise.at(x / 4.0, y / 4.0);
                Some(colour.map(|c| c * (0.75 + 0.5 * rough)))
            });
        }
        4 => {
            let at = [width * moment.roll(-0.2, 0.4), height * moment.roll(0.95, 1.05)];
            place::bicycle(canvas, at, moment.roll(26.0, 36.0), colour);
        }
        _ => {}
    }
}

/// Blur of the lens, and of the movement across the image in every fifth image or so.
fn blur(canvas: &mut Canvas, moment: &mut Dice, place: &Place, heading: f32) {
    let lens = (place.blur + moment.roll(-0.3, 0.9)).max(0.0) as usize;
    for along_rows in [true, false] {
        if lens > 0 {
            // Twice a box is nearly round.
            canvas.smear(lens, along_rows);
            canvas.smear(lens, along_rows);
        }
    }
    if moment.chance(0.2) {
        // Who comes or goes moves up and down.
        let across = sine(heading).abs() >= cosine(heading).abs();
        let length = moment.roll(2.0, 6.0) as usize;
        canvas.smear(if across { length } else { length.div_ceil(2) }, across);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::labels::Person;
    use crate::datasets::{self, survey};
    use crate::images::walk;

    fn drawn(figures: Figures) -> Vec<(String, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/folder");
        let count = draw_figures(&folder, figures).unwrap();
        let files = walk::list_images(&[folder], false).unwrap().images;
        assert_eq!(files.len(), count);
        files.into_iter().map(|file| (file.name, std::fs::read(file.path).unwrap())).collect()
    }

    const FEW: Figures = Figures { persons: 4, cameras: 2, images: 2, seed: 0 };

    #[test]
    fn same_seed_same_bytes_other_seed_other_bytes() {
        let first = drawn(FEW);
        assert_eq!(first.len(), 18);
        assert_eq!(first[0].0, "bounding_box_test/-1_c1s1_000025_01.png");
        assert_eq!(first[17].0, "query/0004_c2s1_000175_00.png");
        assert!(first == drawn(FEW));
        let other = drawn(Figures { seed: 1, ..FEW });
        assert!(first.iter().zip(&other).skip(2).all(|(a, b)| a.1 != b.1));
    }

    #[test]
    fn pixels_are_fixed_for_all_time() {
        // Scores on drawn figures can be compared between machines and versions as long as this stays.
        let noise = Noise::new(0);
        let places: Vec<Place> = (1..=FEW.cameras).map(|camera| Place::roll(0, camera, &noise)).collect();
        let images =
            tasks(FEW).into_iter().map(|task| draw(0, &task, &places[task.camera as usize - 1], &noise));
        let bytes = images.flat_map(RgbImage::into_raw);
        // FNV-1a's step.
        let hash = bytes.fold(0u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 8_544_794_227_610_361_936);
    }

    #[test]
    fn no_two_images_are_alike_and_all_have_the_size() {
        let files = drawn(FEW);
        for (i, (name, bytes)) in files.iter().enumerate() {
            let image = crate::images::decode::decode(bytes, Default::default()).unwrap();
            assert_eq!((image.height, image.width), (HEIGHT, WIDTH), "{name}");
            assert!(files[..i].iter().all(|other| other.1 != *bytes));
        }
    }

    #[test]
    fn it_is_a_data_set_without_findings() {
        for (figures, query, gallery) in [
            (Figures { persons: 5, cameras: 3, images: 3, seed: 1 }, 6, 12_usize),
            (Figures { persons: 6, cameras: 2, images: 1, seed: 1 }, 3, 3),
        ] {
            let dir = tempfile::tempdir().unwrap();
            draw_figures(dir.path(), figures).unwrap();
            let set = datasets::load(dir.path(), &Default::default()).unwrap();
            assert!(set.skipped.is_empty() && survey::findings(&set).is_empty());
            assert_eq!(set.train.len() as u32, 3 * figures.cameras * figures.images);
            assert_eq!(set.query.len(), query);
            let of =
                |junk: bool| set.gallery.iter().filter(|p| (p.label.person == Person::Junk) == junk).count();
            let few = gallery.div_ceil(8);
            assert_eq!((of(false), of(true)), (gallery + few, few));
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
