//! Synthetic data sets of walking figures, free to use: a small one for demos and tests, and a [`Crowd`] to train on.
//!
//! This module draws the small one.
//! Each person has a build, hair and clothes, in colours that many persons share. Each camera has a background, a view,
//! a light and a sensor, so the same clothes look different by each camera. Step, direction, crop, blur and obstacles
//! change from image to image. The layout and the names are those of Market-1501.

mod canvas;
mod crowd;
mod lens;
mod outfit;
mod person;
mod scene;

pub use crowd::{Crowd, CrowdSize, FAMILY, draw_crowd};

use std::path::Path;

use image::{Rgb, RgbImage};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::rng;
use crate::storage::atomic::replace;
use canvas::{Canvas, Dice, Noise, cosine, sine};
use person::{Looks, Pose, View};
use scene::Scene;

/// Size of an image in pixels, as in Market-1501.
const WIDTH: usize = 64;
const HEIGHT: usize = 128;
/// Canvas pixels per image pixel, in each direction.
const FINE: usize = 2;

/// Number of the first stranger, after all names of four digits.
const STRANGERS: u32 = 10_000;

/// Size and seed of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Number of persons, named from 0001.
    pub persons: u32,
    /// Number of cameras, named from c1.
    pub cameras: u32,
    /// Images of each person by each camera.
    pub images: u32,
    /// Seed of all persons and backgrounds.
    pub seed: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Figures { persons: 32, cameras: 4, images: 4, seed: 0 }
    }
}

/// Subject of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// A person or stranger, by number.
    Person(u32),
    /// A person cut off, or nobody.
    Junk,
}

/// An image to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    name: String,
    subject: Subject,
    camera: u32,
    image: u32,
}

/// Draws `figures` into the folder `dir` and returns the number of files.
///
/// Persons with odd numbers go to `bounding_box_train`. Of the others, the first image by each camera goes to `query`,
/// the rest to `bounding_box_test`. With one image per camera, only those by camera 1 are queries. The gallery gets a
/// stranger (`0000`) and a bad detection (`-1`) for every eight of its images. Files are named
/// `PPPP_cCs1_FFFFFF_NN.png` and are 128×64 pixels.
///
/// Creates missing folders, replaces files of the same names and keeps others. The same `figures` give the same pixels
/// on every machine, and the same bytes with the same PNG encoder.
///
/// # Errors
/// `Usage` if a number is 0 or doesn't fit the file names; `Io` if the folder can't be written.
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
    let scenes: Vec<Scene> =
        (1..=figures.cameras).map(|camera| Scene::roll(figures.seed, camera, &noise)).collect();
    let tasks = tasks(figures);
    tasks.par_iter().try_for_each(|task| {
        let path = dir.join(&task.name);
        let image = draw(figures.seed, task, &scenes[task.camera as usize - 1], &noise);
        write_png(&path, &image)
    })?;
    Ok(tasks.len())
}

fn write_png(path: &Path, image: &RgbImage) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|e| Error::Image { path: path.to_path_buf(), reason: e.to_string() })?;
    replace(path, bytes.get_ref())
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
                // The frame number follows time: steps are 25 frames apart.
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

/// Draws one image: the background, the person, and the effects of the camera.
fn draw(seed: u64, task: &Task, scene: &Scene, noise: &Noise) -> RgbImage {
    let whom = match task.subject {
        Subject::Person(person) => person,
        Subject::Junk => 2 * STRANGERS + task.image,
    };
    let number = (u64::from(whom) << 32) | (u64::from(task.camera) << 16);
    // `passage` is constant while a person passes a camera; `moment` changes with each image.
    let mut passage = Dice::new(seed, 3, number);
    let mut moment = Dice::new(seed, 4, number | u64::from(task.image));
    let looks = Looks::roll(&mut Dice::new(seed, 1, u64::from(whom)));
    let (width, height) = ((WIDTH * FINE) as f32, (HEIGHT * FINE) as f32);
    let mut canvas = Canvas::new(WIDTH * FINE, HEIGHT * FINE);

    // Direction of the walk: most follow the scene's usual direction.
    let usual = if scene.across { [0.25, 0.75] } else { [0.0, 0.5] };
    let unusual = if scene.across { [0.0, 0.5] } else { [0.25, 0.75] };
    let ways = if passage.chance(0.8) { usual } else { unusual };
    let way = ways[usize::from(passage.chance(0.5))] + passage.roll(-0.06, 0.06);
    let heading = way + moment.roll(-0.03, 0.03);
    let left = passage.roll(0.0, 1.0) + 0.06 * sine(way) * task.image as f32;
    scene.cut(&mut canvas, left - left.floor(), moment.roll(0.7, 1.0), moment.roll(0.85, 1.2));

    // The detector's box, usually about correct.
    let mut scale = height * moment.roll(0.94, 1.07);
    let mut feet = [width * (0.5 + moment.roll(-0.07, 0.07)), height * moment.roll(0.96, 0.995)];
    if moment.chance(0.16) {
        // The box is too small: feet, head or a side are missing.
        scale *= moment.roll(1.12, 1.45);
        feet[1] = if moment.chance(0.5) { height * 0.97 } else { scale * moment.roll(0.97, 1.03) };
        feet[0] += width * moment.roll(-0.12, 0.12);
    }
    if task.subject == Subject::Junk {
        scale *= moment.roll(1.5, 2.6);
        feet =
            [width * moment.choose(&[(1.0, -0.15), (1.0, 1.15), (1.0, 0.3)]), scale * moment.roll(0.5, 1.3)];
    }
    let view = View { feet, scale, above: scene.above, light: scene.light };
    let other = |moment: &mut Dice| {
        let looks = Looks::roll(moment);
        let pose = Pose { heading: ways[usize::from(moment.chance(0.5))], phase: moment.roll(0.0, 1.0) };
        (looks, pose)
    };
    // A person behind.
    if moment.chance(0.18) {
        let (looks, pose) = other(&mut moment);
        let aside = moment.choose(&[(1.0, -1.0), (1.0, 1.0)]) * moment.roll(0.25, 0.55);
        let feet = [feet[0] + width * aside, feet[1] - height * moment.roll(0.03, 0.1)];
        let view = View { feet, scale: scale * moment.roll(0.75, 0.92), ..view };
        person::draw(&mut canvas, &looks, pose, view, noise, moment.roll(0.0, 60.0));
    }
    let dark = moment.roll(0.55, 0.8);
    let shadow = [feet[0] - scene.light[0] * 0.14 * scale, feet[1] - 2.0];
    draw_shadow(&mut canvas, shadow, [0.2 * scale, (0.02 + 0.05 * scene.above) * scale], dark);
    let phase = passage.roll(0.0, 1.0) + task.image as f32 * 0.37 + moment.roll(-0.08, 0.08);
    person::draw(&mut canvas, &looks, Pose { heading, phase }, view, noise, moment.roll(0.0, 60.0));
    draw_obstacle(&mut canvas, &mut moment, view, noise, other);

    blur(&mut canvas, &mut moment, scene, heading);
    let coarse = scene.coarse * moment.roll(0.9, 1.25);
    let sensor = |size: usize| ((size as f32 / coarse.max(1.0)) as usize).max(1);
    let canvas = canvas.resized(sensor(WIDTH), sensor(HEIGHT)).resized(WIDTH, HEIGHT);
    let bright = passage.roll(0.88, 1.12) * moment.roll(0.93, 1.07);
    let mut image = RgbImage::new(WIDTH as u32, HEIGHT as u32);
    for (index, (pixel, colour)) in image.pixels_mut().zip(&canvas.pixels).enumerate() {
        let colour = scene.develop(*colour, bright);
        // Noise common to all colours, and a little of each.
        let grains = rng::bits(seed, (5 << 48) | number | u64::from(task.image), index as u64).to_le_bytes();
        let uniform = |which: usize| f32::from(grains[which]) / 255.0 - 0.5;
        let value = |c: usize| {
            let grain = scene.grain * (uniform(3) + 0.6 * uniform(c));
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

/// Draws an obstacle in front of the person in about one of four images.
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
        // A nearer person at the edge.
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
            scene::bicycle(canvas, at, moment.roll(26.0, 36.0), colour);
        }
        _ => {}
    }
}

/// Blurs by the lens, and by movement in about one of five images.
fn blur(canvas: &mut Canvas, moment: &mut Dice, scene: &Scene, heading: f32) {
    let lens = (scene.blur + moment.roll(-0.3, 0.9)).max(0.0) as usize;
    for along_rows in [true, false] {
        if lens > 0 {
            // Two box filters are nearly round.
            canvas.smear(lens, along_rows);
            canvas.smear(lens, along_rows);
        }
    }
    if moment.chance(0.2) {
        // Persons who come or go move up and down.
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
    fn bytes_follow_from_the_seed() {
        let first = drawn(FEW);
        assert_eq!(first.len(), 18);
        assert_eq!(first[0].0, "bounding_box_test/-1_c1s1_000025_01.png");
        assert_eq!(first[17].0, "query/0004_c2s1_000175_00.png");
        assert!(first == drawn(FEW));
        let other = drawn(Figures { seed: 1, ..FEW });
        assert!(first.iter().zip(&other).skip(2).all(|(a, b)| a.1 != b.1));
    }

    #[test]
    fn pixels_are_the_same_in_every_version() {
        // Scores on synthetic images are comparable between machines and versions only if this hash stays.
        let noise = Noise::new(0);
        let scenes: Vec<Scene> = (1..=FEW.cameras).map(|camera| Scene::roll(0, camera, &noise)).collect();
        let images =
            tasks(FEW).into_iter().map(|task| draw(0, &task, &scenes[task.camera as usize - 1], &noise));
        let bytes = images.flat_map(RgbImage::into_raw);
        // FNV-1a's step.
        let hash = bytes.fold(0u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 8_544_794_227_610_361_936);
    }

    #[test]
    fn images_differ_and_have_the_size() {
        let files = drawn(FEW);
        for (i, (name, bytes)) in files.iter().enumerate() {
            let image = crate::images::decode::decode(bytes, Default::default()).unwrap();
            assert_eq!((image.height, image.width), (HEIGHT, WIDTH), "{name}");
            assert!(files[..i].iter().all(|other| other.1 != *bytes));
        }
    }

    #[test]
    fn figures_are_a_data_set_without_findings() {
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
    fn counts_must_fit_the_names() {
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
