//! Drawn persons to train on: many persons, each seen by some of many cameras, and drawn anew at every visit.
//!
//! Persons come in families of four. Those of half of the families are look-alikes. A camera's background, view, light
//! and lens stay; it shows every person who passes in any direction. Nothing in a background depends on a person.

use super::canvas::{Canvas, Dice, Noise, Normal, Point, cosine, sine};
use super::lens::Lens;
use super::person::{self, Looks, Pose, View};
use super::{HEIGHT, WIDTH, draw_obstacle, draw_shadow, scene, write_png};
use crate::error::{Error, Result};
use crate::rng;
use image::RgbImage;
use rayon::prelude::*;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Persons in a family.
pub const FAMILY: u32 = 4;

/// Cameras that see a person.
const SEEN_BY: u32 = 6;

/// Canvas pixels of an image, which the lens resamples.
const CANVAS: [usize; 2] = [96, 192];

// Kinds of random numbers, beside those of `Figures`.
const STREET: u64 = 10;
const BASE: u64 = 11;
const MEMBER: u64 = 12;
const CHANGES: u64 = 13;
const CAMERAS: u64 = 14;
const VISIT: u64 = 15;
const GRAIN: u64 = 16 << 48;

/// A kind of variation that a crowd can go without, to measure its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variation {
    /// Families of look-alikes: all persons are drawn independently.
    Lookalikes,
    /// Directions: everyone comes towards the camera.
    Turns,
    /// Errors of the detector: everyone fills the image from head to feet.
    Boxes,
    /// People and things before and behind the person.
    Occluders,
    /// Lenses, views, light and backgrounds: all cameras are like the first.
    Cameras,
}

impl Variation {
    const NAMES: [(&str, Variation); 5] = [
        ("lookalikes", Variation::Lookalikes),
        ("turns", Variation::Turns),
        ("boxes", Variation::Boxes),
        ("occluders", Variation::Occluders),
        ("cameras", Variation::Cameras),
    ];
}

/// Size and seed of a crowd, written `synth:persons=10000,cameras=48,seed=1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrowdSize {
    /// Number of persons, 4 to 1,000,000.
    pub persons: u32,
    /// Number of cameras, 2 to 999.
    pub cameras: u32,
    /// Seed of all persons and cameras.
    pub seed: u64,
    /// A variation that is left out, written `without=turns`.
    pub without: Option<Variation>,
}

impl CrowdSize {
    /// Start of the text of a crowd.
    pub const PREFIX: &str = "synth:";

    /// Returns whether a text, such as the value of `--data`, is meant as a crowd.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(Self::PREFIX)
    }
}

impl Default for CrowdSize {
    fn default() -> Self {
        CrowdSize { persons: 10_000, cameras: 48, seed: 1, without: None }
    }
}

impl fmt::Display for CrowdSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CrowdSize { persons, cameras, seed, without } = self;
        write!(f, "{}persons={persons},cameras={cameras},seed={seed}", Self::PREFIX)?;
        let name = Variation::NAMES.into_iter().find(|(_, variation)| Some(*variation) == *without);
        name.map_or(Ok(()), |(name, _)| write!(f, ",without={name}"))
    }
}

impl FromStr for CrowdSize {
    type Err = Error;

    /// Parses `synth:` and settings in any order, separated by commas. What is left out has its default.
    fn from_str(text: &str) -> Result<CrowdSize> {
        let refused = |reason: String| {
            Error::Usage(format!("{text}: {reason}; an example is {}", CrowdSize::default()))
        };
        let settings = text.strip_prefix(Self::PREFIX).unwrap_or(text);
        let mut size = CrowdSize::default();
        for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
            let (name, value) =
                setting.split_once('=').ok_or_else(|| refused(format!("{setting} is no NAME=VALUE")))?;
            let number = |most: u64| -> Result<u64> {
                let parsed = value.parse().ok().filter(|&number| number <= most);
                parsed.ok_or_else(|| refused(format!("{name} must be a number up to {most}, found {value}")))
            };
            match name {
                "persons" => size.persons = number(1_000_000)? as u32,
                "cameras" => size.cameras = number(999)? as u32,
                "seed" => size.seed = number(u64::MAX)?,
                "without" => {
                    let found = Variation::NAMES.into_iter().find(|(name, _)| *name == value);
                    let names = Variation::NAMES.map(|(name, _)| name).join(", ");
                    let unknown = || refused(format!("{name} must be one of {names}, found {value}"));
                    size.without = Some(found.ok_or_else(unknown)?.1);
                }
                _ => {
                    return Err(refused(format!(
                        "{name} is unknown: persons, cameras, seed and without are"
                    )));
                }
            }
        }
        if size.persons < FAMILY || size.cameras < 2 {
            return Err(refused(format!("a crowd has {FAMILY} persons and 2 cameras or more")));
        }
        Ok(size)
    }
}

/// A crowd, ready to draw.
pub struct Crowd {
    /// Size and seed.
    pub size: CrowdSize,
    noise: Noise,
    streets: Vec<Street>,
}

/// Place and lens of a camera.
struct Street {
    background: Canvas,
    /// Pixels of the background per canvas pixel.
    zoom: f32,
    light: Normal,
    /// Elevation of the camera, 0 to ½.
    above: f32,
    /// Direction in which most persons walk, in turns.
    way: f32,
    lens: Lens,
}

impl fmt::Debug for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.size.fmt(f)
    }
}

impl PartialEq for Crowd {
    fn eq(&self, other: &Crowd) -> bool {
        self.size == other.size
    }
}

impl Eq for Crowd {}

impl Street {
    fn roll(seed: u64, number: u32, noise: &Noise) -> Street {
        let mut dice = Dice::new(seed, STREET, u64::from(number));
        let above = dice.roll(0.0, 0.6);
        let mut background = scene::paint_background(&mut dice, seed, number, above, noise);
        scene::furnish(&mut background, &mut dice, noise);
        // Half the size takes a quarter of the memory, and the lens sees no more.
        let background = background.resized(background.width / 2, background.height / 2);
        Street {
            background,
            zoom: dice.roll(0.55, 0.8),
            light: [dice.roll(-0.8, 0.8), dice.roll(-0.7, -0.2), dice.roll(0.2, 0.8)],
            above,
            way: dice.roll(0.0, 1.0),
            lens: Lens::roll(&mut dice),
        }
    }

    /// A canvas with a random piece of the background.
    fn cut(&self, moment: &mut Dice) -> Canvas {
        let [columns, rows] = CANVAS;
        let mut canvas = Canvas::new(columns, rows);
        let zoom = self.zoom * moment.roll(0.8, 1.2);
        let [x0, y0] = [(columns, self.background.width, 0.0), (rows, self.background.height, 0.6)]
            .map(|(size, all, least)| moment.roll(least, 1.0) * (all as f32 - size as f32 * zoom).max(0.0));
        for (index, pixel) in canvas.pixels.iter_mut().enumerate() {
            let (x, y) = ((index % columns) as f32 + 0.5, (index / columns) as f32 + 0.5);
            *pixel = self.background.at(x0 + x * zoom, y0 + y * zoom);
        }
        canvas
    }
}

impl Crowd {
    /// Paints the backgrounds.
    pub fn new(size: CrowdSize) -> Crowd {
        let noise = Noise::new(size.seed);
        let place = |number| if size.without == Some(Variation::Cameras) { 0 } else { number };
        let streets =
            (0..size.cameras).map(|number| Street::roll(size.seed, place(number), &noise)).collect();
        Crowd { size, noise, streets }
    }

    /// The cameras that see a person, from 0, in ascending order.
    pub fn cameras_of(&self, person: u32) -> Vec<u32> {
        let mut dice = Dice::new(self.size.seed, CAMERAS, u64::from(person));
        let mut all: Vec<u32> = (0..self.size.cameras).collect();
        let count = SEEN_BY.min(self.size.cameras) as usize;
        for place in 0..count {
            let chosen =
                place + (dice.roll(0.0, (all.len() - place) as f32) as usize).min(all.len() - place - 1);
            all.swap(place, chosen);
        }
        all.truncate(count);
        all.sort_unstable();
        all
    }

    fn lacks(&self, variation: Variation) -> bool {
        self.size.without == Some(variation)
    }

    fn looks(&self, person: u32) -> Looks {
        let own = || Looks::roll_layered(&mut Dice::new(self.size.seed, MEMBER, u64::from(person)));
        let mut of_family = Dice::new(self.size.seed, BASE, u64::from(person / FAMILY));
        if of_family.chance(0.5) || self.lacks(Variation::Lookalikes) {
            return own();
        }
        let base = Looks::roll_layered(&mut of_family);
        match person % FAMILY {
            0 => base,
            _ => base.alike(own(), &mut Dice::new(self.size.seed, CHANGES, u64::from(person))),
        }
    }

    /// Draws a person (from 0) by a camera (from 0). Each `visit` is another image: pose, direction, light and crop differ.
    ///
    /// # Panics
    /// If there is no such camera.
    pub fn draw(&self, person: u32, camera: u32, visit: u64) -> RgbImage {
        let street = &self.streets[camera as usize];
        let [high, low] = [0, 1].map(|word| u64::from(rng::bits(self.size.seed, visit, word)));
        let number = u64::from(person) << 16 | u64::from(camera);
        let mut moment = Dice::new(self.size.seed ^ (high << 32 | low), VISIT, number);
        let mut canvas = street.cut(&mut moment);
        let [width, height] = CANVAS.map(|side| side as f32);

        // The detector's box.
        let mut scale = height * moment.roll(0.86, 1.12);
        let mut feet: Point = [
            width * (0.5 + moment.roll(-0.12, 0.12)),
            height * 0.5 + scale * 0.475 + height * moment.roll(-0.05, 0.05),
        ];
        if moment.chance(0.12) {
            // Feet, head or a side are missing.
            scale *= moment.roll(1.12, 1.5);
            feet[1] = if moment.chance(0.5) { height * 0.97 } else { scale * moment.roll(0.97, 1.04) };
            feet[0] += width * moment.roll(-0.15, 0.15);
        }
        if self.lacks(Variation::Boxes) {
            scale = 0.96 * height;
            feet = [width * 0.5, height * 0.975];
        }
        let view = View { feet, scale, above: street.above, light: street.light };
        // Most walk along the street, in either direction.
        let along = street.way + if moment.chance(0.5) { 0.5 } else { 0.0 } + moment.roll(-0.06, 0.06);
        let mut heading = if moment.chance(0.6) { along } else { moment.roll(0.0, 1.0) };
        if self.lacks(Variation::Turns) {
            heading = 0.0;
        }
        let other = |moment: &mut Dice| {
            let looks = Looks::roll_layered(moment);
            (looks, Pose { heading: moment.roll(0.0, 1.0), phase: moment.roll(0.0, 1.0) })
        };
        // Random numbers are drawn for occluders also where these are left out, so that the rest stays.
        let bare = |canvas: &Canvas| self.lacks(Variation::Occluders).then(|| canvas.clone());
        let before = bare(&canvas);
        if moment.chance(0.15) {
            // A person behind.
            let (looks, pose) = other(&mut moment);
            let aside = moment.choose(&[(1.0, -1.0), (1.0, 1.0)]) * moment.roll(0.25, 0.55);
            let feet = [feet[0] + width * aside, feet[1] - height * moment.roll(0.03, 0.1)];
            let view = View { feet, scale: scale * moment.roll(0.75, 0.92), ..view };
            person::draw(&mut canvas, &looks, pose, view, &self.noise, moment.roll(0.0, 60.0));
        }
        canvas = before.unwrap_or(canvas);
        let dark = moment.roll(0.5, 0.85);
        let shadow = [feet[0] - street.light[0] * 0.16 * scale, feet[1] - 2.0];
        draw_shadow(&mut canvas, shadow, [0.2 * scale, (0.02 + 0.05 * street.above) * scale], dark);
        let pose = Pose { heading, phase: moment.roll(0.0, 1.0) };
        person::draw(&mut canvas, &self.looks(person), pose, view, &self.noise, moment.roll(0.0, 60.0));
        let before = bare(&canvas);
        // A quarter of the images each time.
        draw_obstacle(&mut canvas, &mut moment, view, &self.noise, other);
        if moment.chance(0.35) {
            draw_obstacle(&mut canvas, &mut moment, view, &self.noise, other);
        }
        canvas = before.unwrap_or(canvas);
        if moment.chance(0.15) {
            // Movement.
            let across = sine(heading).abs() >= cosine(heading).abs();
            canvas.smear(moment.roll(1.0, 4.0) as usize, across);
        }
        let seen = [moment.roll(0.8, 1.22), moment.roll(0.8, 1.25)];
        let pixels =
            street.lens.take(canvas, [WIDTH, HEIGHT], seen, (self.size.seed ^ visit, GRAIN | number));
        let image = RgbImage::from_raw(WIDTH as u32, HEIGHT as u32, pixels);
        image.unwrap_or_else(|| unreachable!("a lens takes {WIDTH}x{HEIGHT} pixels"))
    }
}

/// Draws a crowd into the folder `dir` in the layout of Market-1501, with `visits` images of each person by each camera
/// that sees it. Returns the number of files.
///
/// Of every two families, the persons of the first go to `bounding_box_train`. Of the others, the first image by each
/// camera goes to `query`, the rest to `bounding_box_test`. With one visit, only those by the first camera are queries.
///
/// # Errors
/// `Io` if the folder can't be written.
pub fn draw_crowd(dir: &Path, size: CrowdSize, visits: u32) -> Result<usize> {
    for folder in ["bounding_box_train", "query", "bounding_box_test"] {
        let folder = dir.join(folder);
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    }
    let crowd = Crowd::new(size);
    let mut tasks = Vec::new();
    for person in 0..size.persons {
        for (place, camera) in crowd.cameras_of(person).into_iter().enumerate() {
            for visit in 0..visits {
                let asks = visit == 0 && (visits > 1 || place == 0);
                let folder = match ((person / FAMILY).is_multiple_of(2), asks) {
                    (true, _) => "bounding_box_train",
                    (false, true) => "query",
                    (false, false) => "bounding_box_test",
                };
                let name = format!("{folder}/{:04}_c{}s1_{visit:06}_00.png", person + 1, camera + 1);
                tasks.push((name, person, camera, visit));
            }
        }
    }
    tasks.par_iter().try_for_each(|(name, person, camera, visit)| {
        write_png(&dir.join(name), &crowd.draw(*person, *camera, u64::from(*visit)))
    })?;
    Ok(tasks.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: CrowdSize = CrowdSize { persons: 16, cameras: 8, seed: 3, without: None };

    #[test]
    fn sizes_are_parsed_and_written() {
        let parse = |text: &str| text.parse::<CrowdSize>();
        assert_eq!(parse("synth:").unwrap(), CrowdSize::default());
        assert_eq!(parse("synth:cameras=8,seed=3,persons=16").unwrap(), FEW);
        assert_eq!(parse(&FEW.to_string()).unwrap(), FEW);
        for (_, variation) in Variation::NAMES {
            let size = CrowdSize { without: Some(variation), ..FEW };
            assert_eq!(parse(&size.to_string()).unwrap(), size);
        }
        for (text, words) in [
            ("synth:persons", "persons is no NAME=VALUE"),
            ("synth:without=rain", "without must be one of lookalikes, turns, boxes, occluders, cameras"),
            ("synth:persons=3", "4 persons and 2 cameras"),
            ("synth:persons=many", "must be a number up to 1000000"),
            ("synth:colour=1", "colour is unknown"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("synth:persons=10000"), "{error}");
        }
    }

    #[test]
    fn every_visit_is_another_image_and_the_same_again() {
        let crowd = Crowd::new(FEW);
        let cameras = crowd.cameras_of(5);
        assert_eq!(cameras.len(), 6);
        assert!(cameras.windows(2).all(|pair| pair[0] < pair[1]) && cameras[5] < 8);
        assert_ne!(cameras, crowd.cameras_of(6));
        let image = |crowd: &Crowd, person, camera, visit| crowd.draw(person, camera, visit).into_raw();
        let first = image(&crowd, 5, cameras[0], 7);
        assert_eq!(first.len(), 3 * WIDTH * HEIGHT);
        for other in [
            image(&crowd, 5, cameras[0], 8),
            image(&crowd, 5, cameras[1], 7),
            image(&crowd, 6, cameras[0], 7),
            image(&Crowd::new(CrowdSize { seed: 4, ..FEW }), 5, cameras[0], 7),
        ] {
            let differing = first.iter().zip(&other).filter(|(a, b)| a.abs_diff(**b) > 8).count();
            assert!(differing > first.len() / 8, "{differing}");
        }
        assert_eq!(image(&Crowd::new(FEW), 5, cameras[0], 7), first);
    }

    #[test]
    fn pixels_are_the_same_in_every_version() {
        // Training on a crowd is repeatable between machines and versions only if this hash stays.
        let crowd = Crowd::new(FEW);
        let images = (0..FEW.persons).map(|person| crowd.draw(person, crowd.cameras_of(person)[0], 0));
        let bytes = images.flat_map(RgbImage::into_raw);
        let hash = bytes.fold(0u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 3_804_411_844_196_513_807);
    }

    #[test]
    fn crowds_go_without_one_variation() {
        let without = |variation| Crowd::new(CrowdSize { without: Some(variation), ..FEW });
        let whole = Crowd::new(FEW);
        let images = |crowd: &Crowd| -> Vec<Vec<u8>> {
            (0..16).map(|person| crowd.draw(person, crowd.cameras_of(person)[0], 0).into_raw()).collect()
        };
        let usual = images(&whole);
        let changed = |variation| {
            let others = images(&without(variation));
            usual.iter().zip(&others).filter(|(a, b)| a != b).count()
        };
        // Every image has a direction and a box, but only some have occluders, look-alikes or the first camera.
        assert_eq!([Variation::Turns, Variation::Boxes].map(changed), [16; 2]);
        for variation in [Variation::Lookalikes, Variation::Occluders, Variation::Cameras] {
            assert!((1..16).contains(&changed(variation)), "{variation:?}");
        }
        let crowd = without(Variation::Lookalikes);
        let looks: Vec<Looks> = (0..16).map(|person| crowd.looks(person)).collect();
        assert!((0..16).all(|a| (0..a).all(|b| looks[a] != looks[b])));
        let crowd = without(Variation::Cameras);
        assert!(crowd.streets.iter().all(|street| street.above == crowd.streets[0].above));
    }

    #[test]
    fn half_of_the_families_are_alike() {
        let crowd = Crowd::new(CrowdSize { persons: 400, ..FEW });
        let mut alike = 0;
        for family in 0..100 {
            let looks: Vec<Looks> = (0..FAMILY).map(|member| crowd.looks(family * FAMILY + member)).collect();
            assert!((1..4).any(|member| looks[member] != looks[0]));
            // A look-alike differs in one or two attributes, so the written forms share most fields.
            let fields =
                |looks: &Looks| format!("{looks:?}").split(", ").map(String::from).collect::<Vec<_>>();
            let base = fields(&looks[0]);
            let shared = |other: &Looks| fields(other).iter().filter(|field| base.contains(field)).count();
            alike += usize::from(looks[1..].iter().all(|other| 2 * shared(other) > base.len()));
        }
        assert!((35..65).contains(&alike), "{alike}");
    }
}
