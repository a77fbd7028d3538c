//! The scene of a camera: its background, the directions of passers, and its colours.

use super::canvas::{Canvas, Colour, Dice, Noise, Normal, blend, mix};
use super::person::{self, Looks, Pose, View};

/// Size of the background that images are cut from, in canvas pixels.
const WIDTH: usize = 640;
const HEIGHT: usize = 320;

/// Background and properties of one camera.
pub(super) struct Scene {
    /// The scene without persons of the data set.
    background: Canvas,
    /// Direction of the light.
    pub light: Normal,
    /// Elevation of the camera, 0 to ½.
    pub above: f32,
    /// True if people pass from left to right; else they come and go.
    pub across: bool,
    /// Image pixels per pixel of the sensor.
    pub coarse: f32,
    /// Half width of the lens's blur, in canvas pixels.
    pub blur: f32,
    gains: Colour,
    contrast: f32,
    saturation: f32,
    haze: Colour,
    haziness: f32,
    /// Strength of the sensor's noise.
    pub grain: f32,
}

impl Scene {
    /// The scene of camera `number`, from 1.
    pub fn roll(seed: u64, number: u32, noise: &Noise) -> Scene {
        let mut dice = Dice::new(seed, 2, u64::from(number));
        // Successive cameras differ: warm or cold, bright or dark, along or across the walk.
        let (even, second) = (number.is_multiple_of(2), (number / 2).is_multiple_of(2));
        let warmth = dice.roll(0.03, 0.09) * if even { 1.0 } else { -1.0 };
        let exposure = if second { dice.roll(1.0, 1.14) } else { dice.roll(0.84, 0.98) };
        let green = dice.roll(0.95, 1.05);
        let light_x = dice.roll(-0.7, 0.7);
        let above = dice.roll(0.0, 0.5);
        Scene {
            background: paint_background(&mut dice, seed, number, above, noise),
            light: [light_x, -0.5, 0.6],
            above,
            across: even,
            coarse: dice.roll(1.0, 1.6),
            blur: dice.roll(0.0, 1.3),
            gains: [exposure * (1.0 + warmth), exposure * green, exposure * (1.0 - warmth)],
            contrast: dice.roll(-0.2, 0.35),
            saturation: dice.roll(0.65, 1.1),
            haze: [dice.roll(0.5, 0.8), dice.roll(0.55, 0.75), dice.roll(0.5, 0.85)],
            haziness: dice.roll(0.0, 0.1),
            grain: dice.roll(0.015, 0.055),
        }
    }

    /// Copies a piece of the background to a canvas: from `left` and `top` (0 to 1), enlarged by `zoom`.
    pub fn cut(&self, canvas: &mut Canvas, left: f32, top: f32, zoom: f32) {
        let (width, height) = (canvas.width as f32 / zoom, canvas.height as f32 / zoom);
        let x0 = left * (WIDTH as f32 - width);
        let y0 = top * (HEIGHT as f32 - height).max(0.0);
        let (columns, rows) = (canvas.width, canvas.height);
        for row in 0..rows {
            for column in 0..columns {
                canvas.pixels[row * columns + column] =
                    self.background.at(x0 + (column as f32 + 0.5) / zoom, y0 + (row as f32 + 0.5) / zoom);
            }
        }
    }

    /// The camera's rendering of a colour; `bright` scales the exposure.
    pub fn develop(&self, colour: Colour, bright: f32) -> Colour {
        let lit = [0, 1, 2].map(|c| (colour[c] * self.gains[c] * bright).clamp(0.0, 1.0));
        let curved = lit.map(|c| {
            if self.contrast > 0.0 {
                mix(c, c * c * (3.0 - 2.0 * c), self.contrast)
            } else {
                mix(c, 0.45, -self.contrast)
            }
        });
        let grey = 0.3 * curved[0] + 0.59 * curved[1] + 0.11 * curved[2];
        blend(curved.map(|c| mix(grey, c, self.saturation)), self.haze, self.haziness)
    }
}

/// Paints wall, ground, obstacles and passers-by in the distance.
pub(super) fn paint_background(dice: &mut Dice, seed: u64, number: u32, above: f32, noise: &Noise) -> Canvas {
    let (width, height) = (WIDTH as f32, HEIGHT as f32);
    let mut scene = Canvas::new(WIDTH, HEIGHT);
    // All cameras share similar stone colours.
    let earthy = |dice: &mut Dice, own: f32| -> Colour {
        let grey = dice.roll(0.3, 0.68);
        let stone =
            [grey + dice.roll(-0.05, 0.07), grey + dice.roll(-0.04, 0.04), grey + dice.roll(-0.09, 0.05)];
        blend([0.50, 0.48, 0.45], stone, own)
    };
    let (wall, ground, trim) = (earthy(dice, 0.5), earthy(dice, 0.2), earthy(dice, 0.7));
    // Seen from above, the ground fills more of the image.
    let horizon = height * (0.55 - 0.75 * above) + dice.roll(-10.0, 10.0);
    let (brick, shift) = (dice.roll(6.0, 22.0), dice.roll(0.0, 60.0));
    scene.paint([0.0, 0.0], [width, horizon], |x, y, _| {
        let rough =
            noise.at(x / 9.0 + shift, y / 9.0) - 0.5 + 0.6 * (noise.at(x / 41.0, y / 35.0 + shift) - 0.5);
        let joint = (y / brick - (y / brick).floor()) < 0.12;
        Some(wall.map(|c| c * (1.0 + 0.22 * rough - if joint { 0.14 } else { 0.0 })))
    });
    scene.paint([0.0, horizon], [width, height], |x, y, _| {
        let near = (y - horizon) / (height - horizon);
        let rough = noise.at(x / 6.0, y / 3.0 + shift) - 0.5 + noise.at(x / 57.0 + shift, y / 19.0) - 0.5;
        Some(ground.map(|c| c * (0.85 + 0.25 * near + 0.16 * rough)))
    });
    // A line on the ground.
    let line = horizon + dice.roll(0.1, 0.8) * (height - horizon);
    let (slope, thick) = (dice.roll(-0.06, 0.06), dice.roll(1.5, 6.0));
    let painted = dice.near([0.8, 0.8, 0.76], 0.1);
    scene.paint([0.0, horizon], [width, height], |x, y, old| {
        let off = y - line - slope * (x - width / 2.0);
        (off.abs() < thick).then(|| blend(old, painted, 0.4))
    });

    // Windows and doors.
    let (glass, step) = (dice.near([0.22, 0.26, 0.32], 0.1), dice.roll(50.0, 110.0));
    let pane = blend(wall, glass, 0.55);
    let (pane_width, sill) = (dice.roll(0.3, 0.7) * step, horizon * dice.roll(0.55, 0.95));
    let mut left = dice.roll(-40.0, 20.0);
    while left < width {
        if dice.chance(0.75) {
            scene.rectangle([left - 3.0, 12.0], [left + pane_width + 3.0, sill + 3.0], trim);
            scene.rectangle([left, 15.0], [left + pane_width, sill], pane);
        }
        left += step;
    }
    // Bushes.
    for _ in 0..3 {
        if dice.chance(0.5) {
            let (x, wide, tall) = (dice.roll(0.0, width), dice.roll(40.0, 110.0), dice.roll(20.0, 70.0));
            let leaf = dice.near([0.18, 0.32, 0.13], 0.07);
            scene.ellipsoid([x, horizon + 6.0], [wide, tall], |[u, v, _]| {
                let (i, j) = (u * wide, v * tall);
                let dense = noise.at(i / 4.0 + x, j / 4.0);
                (u * u + v * v < 0.65 + 0.35 * dense).then(|| leaf.map(|c| c * (0.5 + dense)))
            });
        }
    }
    // Passers-by in the distance.
    for passer in 0..4 {
        let mut body = Dice::new(seed, 6, (u64::from(number) << 8) | passer);
        let looks = Looks::roll(&mut body);
        let pose = Pose { heading: body.roll(0.0, 1.0), phase: body.roll(0.0, 1.0) };
        let depth = body.roll(0.05, 0.4);
        let feet = [body.roll(0.0, width), horizon + depth * (height - horizon)];
        let view = View { feet, scale: 90.0 + 200.0 * depth, above, light: [0.3, -0.5, 0.6] };
        if body.chance(0.6) {
            person::draw(&mut scene, &looks, pose, view, noise, body.roll(0.0, 60.0));
        }
    }
    // Posts and bicycles.
    for _ in 0..5 {
        let (x, foot) = (dice.roll(0.0, width), horizon + dice.roll(0.1, 0.5) * (height - horizon));
        let colour = dice.near([0.3, 0.31, 0.33], 0.2);
        if dice.chance(0.5) {
            let thick = dice.roll(2.0, 6.0);
            scene.bar([x, -9.0], [x, foot], [thick, thick], |_, [u, _, _]| {
                colour.map(|c| c * (1.0 - 0.35 * u))
            });
        } else {
            bicycle(&mut scene, [x, foot], dice.roll(18.0, 30.0), colour);
        }
    }
    scene
}

/// Adds tiles, crates and cars to a background.
pub(super) fn furnish(scene: &mut Canvas, dice: &mut Dice, noise: &Noise) {
    let (width, height) = (scene.width as f32, scene.height as f32);
    if dice.chance(0.5) {
        let (wide, tall, dark) = (dice.roll(20.0, 70.0), dice.roll(8.0, 30.0), dice.roll(0.7, 0.92));
        scene.paint([0.0, height * 0.55], [width, height], |x, y, old| {
            let fraction = |v: f32| v - v.floor();
            let joint = fraction(y / tall) < 0.1 || fraction((x + y * 0.4) / wide) < 0.05;
            joint.then(|| old.map(|c| c * dark))
        });
    }
    for _ in 0..dice.roll(0.0, 6.0) as u32 {
        let (x, foot) = (dice.roll(-20.0, width), height * dice.roll(0.45, 0.95));
        let size = [dice.roll(18.0, 90.0), dice.roll(15.0, 90.0)];
        let colour = super::outfit::colour(dice);
        let lit = dice.roll(0.75, 1.2);
        scene.paint([x, foot - size[1]], [x + size[0], foot], |x, y, _| {
            let rough = 0.9 + 0.2 * noise.at(x / 5.0, y / 7.0);
            Some(colour.map(|c| c * rough))
        });
        scene.rectangle([x, foot - size[1]], [x + size[0], foot - 0.85 * size[1]], colour.map(|c| c * lit));
    }
    for _ in 0..dice.roll(0.0, 3.0) as u32 {
        let (x, foot) = (dice.roll(-60.0, width), height * dice.roll(0.5, 0.85));
        let long = dice.roll(90.0, 190.0);
        let tall = long * dice.roll(0.2, 0.3);
        let (paint, glass) = (super::outfit::colour(dice), dice.near([0.2, 0.24, 0.28], 0.1));
        scene.ellipsoid([x + long / 2.0, foot - tall], [long * 0.34, tall], |[_, down, _]| {
            Some(if down > -0.75 { glass } else { paint })
        });
        scene.rectangle([x, foot - tall], [x + long, foot - 0.15 * tall], paint);
        for wheel in [0.2, 0.8] {
            scene.ellipsoid([x + wheel * long, foot - 0.2 * tall], [0.35 * tall, 0.35 * tall], |_| {
                Some([0.06, 0.06, 0.07])
            });
        }
    }
}

/// Paints a bicycle with wheels of `radius` pixels, from the left wheel.
pub(super) fn bicycle(canvas: &mut Canvas, [x, y]: [f32; 2], radius: f32, colour: Colour) {
    let hub = |wheel: f32| [x + wheel * 2.4 * radius, y - radius];
    for wheel in [0.0, 1.0] {
        canvas.ellipsoid(hub(wheel), [radius, radius], |[u, v, _]| {
            (u * u + v * v > 0.76).then_some([0.07, 0.07, 0.08])
        });
    }
    let (saddle, bars) = ([x + 0.7 * radius, y - 2.5 * radius], [x + 2.0 * radius, y - 2.7 * radius]);
    for (from, to) in [(hub(0.0), saddle), (hub(0.0), bars), (saddle, bars), (hub(1.0), bars)] {
        canvas.bar(from, to, [radius * 0.1, radius * 0.1], |_, _| colour);
    }
}
