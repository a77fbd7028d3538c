//! A person: constant looks, a changing pose, and painting them.
//!
//! Coordinates are in units of the body's height: `side` to its left, `front` in walking direction, `up` from the
//! ground.
//! Shapes are painted from the farthest to the nearest.

use super::canvas::{Canvas, Colour, Dice, Noise, Normal, Point, blend, cosine, mix, sine};
use super::outfit::{self, Outfit};

/// The looks by which a person is recognised.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Looks {
    /// Relative height.
    pub height: f32,
    broad: f32,
    waist: f32,
    skin: Colour,
    hair: Hair,
    hair_colour: Colour,
    top: Colour,
    pattern: Pattern,
    /// Colour of the pattern, or under an open jacket.
    second: Colour,
    /// Length of the sleeves: 0 shoulder, 1 hand.
    sleeves: f32,
    /// Length of the top below the hip.
    hem: f32,
    bottom: Bottom,
    bottom_colour: Colour,
    /// Length of trousers or skirt: 0 hip, 1 foot.
    bottom_length: f32,
    shoes: Colour,
    bag: Bag,
    bag_colour: Colour,
    /// Side of a shoulder bag or handbag: 1 left, −1 right.
    bag_side: f32,
    /// Largest angle of the thighs, in turns.
    stride: f32,
    /// Clothes in layers, instead of the pattern.
    outfit: Option<Outfit>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hair {
    Short,
    Long,
    Tail,
    Bald,
    Cap(Colour),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pattern {
    Plain,
    Stripes,
    /// A square on the chest.
    Print,
    /// The lower half in the second colour.
    Halves,
    /// Open in front.
    Jacket,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bottom {
    Trousers,
    Skirt,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bag {
    None,
    Backpack,
    Shoulder,
    Hand,
}

/// Few colours of clothes, mostly dark or pale, so that many persons look similar.
const TOPS: [(f32, Colour); 15] = [
    (16.0, [0.09, 0.09, 0.10]),
    (15.0, [0.88, 0.88, 0.87]),
    (10.0, [0.50, 0.50, 0.51]),
    (8.0, [0.28, 0.28, 0.30]),
    (9.0, [0.10, 0.13, 0.28]),
    (8.0, [0.18, 0.32, 0.62]),
    (5.0, [0.55, 0.70, 0.85]),
    (7.0, [0.70, 0.12, 0.14]),
    (4.0, [0.90, 0.55, 0.62]),
    (4.0, [0.16, 0.42, 0.24]),
    (4.0, [0.38, 0.39, 0.22]),
    (3.0, [0.90, 0.77, 0.25]),
    (2.0, [0.86, 0.45, 0.14]),
    (3.0, [0.40, 0.20, 0.48]),
    (5.0, [0.74, 0.65, 0.50]),
];
const BOTTOMS: [(f32, Colour); 8] = [
    (28.0, [0.08, 0.08, 0.09]),
    (14.0, [0.22, 0.22, 0.24]),
    (20.0, [0.12, 0.16, 0.29]),
    (13.0, [0.29, 0.38, 0.55]),
    (8.0, [0.66, 0.58, 0.44]),
    (6.0, [0.36, 0.26, 0.18]),
    (6.0, [0.82, 0.82, 0.80]),
    (5.0, [0.50, 0.50, 0.50]),
];
const HAIRS: [(f32, Colour); 5] = [
    (45.0, [0.06, 0.05, 0.05]),
    (25.0, [0.20, 0.13, 0.08]),
    (12.0, [0.38, 0.25, 0.14]),
    (10.0, [0.74, 0.60, 0.36]),
    (8.0, [0.62, 0.61, 0.60]),
];
const BAGS: [(f32, Colour); 6] = [
    (35.0, [0.08, 0.08, 0.09]),
    (15.0, [0.35, 0.22, 0.13]),
    (15.0, [0.15, 0.18, 0.32]),
    (15.0, [0.62, 0.12, 0.14]),
    (10.0, [0.45, 0.45, 0.46]),
    (10.0, [0.78, 0.70, 0.56]),
];

impl Looks {
    /// Random looks.
    pub fn roll(dice: &mut Dice) -> Looks {
        let slender = dice.chance(0.5);
        let tone = dice.roll(0.0, 1.0);
        let skin = blend([0.96, 0.80, 0.69], [0.36, 0.23, 0.16], tone * tone);
        let hair_colour = dice.choose(&HAIRS);
        let cap = dice.choose(&TOPS);
        let hair = dice.choose(&[
            (if slender { 15.0 } else { 70.0 }, Hair::Short),
            (if slender { 45.0 } else { 5.0 }, Hair::Long),
            (if slender { 30.0 } else { 2.0 }, Hair::Tail),
            (if slender { 0.0 } else { 8.0 }, Hair::Bald),
            (10.0, Hair::Cap(cap)),
        ]);
        let top = dice.choose(&TOPS);
        let top = dice.near(top, 0.05);
        let second = dice.choose(&TOPS);
        let pattern = dice.choose(&[
            (45.0, Pattern::Plain),
            (14.0, Pattern::Stripes),
            (13.0, Pattern::Print),
            (8.0, Pattern::Halves),
            (20.0, Pattern::Jacket),
        ]);
        let long = pattern == Pattern::Jacket || dice.chance(0.35);
        let sleeves = if long { 1.0 } else { dice.choose(&[(8.0, 0.35), (2.0, 0.08)]) };
        let hem = dice.roll(0.0, 0.06) + if pattern == Pattern::Jacket { dice.roll(0.0, 0.1) } else { 0.0 };
        let skirt = slender && dice.chance(0.35);
        let bottom = if skirt { Bottom::Skirt } else { Bottom::Trousers };
        let short = dice.chance(0.25);
        let bottom_length = match (bottom, short) {
            (Bottom::Skirt, _) => dice.roll(0.35, 0.75),
            (Bottom::Trousers, true) => dice.roll(0.35, 0.6),
            (Bottom::Trousers, false) => 1.0,
        };
        let bottom_colour = dice.choose(&BOTTOMS);
        let bottom_colour = dice.near(bottom_colour, 0.04);
        // Some are dresses, with top and skirt of one colour.
        let bottom_colour = if skirt && dice.chance(0.4) { top } else { bottom_colour };
        let shoes = dice.choose(&[
            (50.0, [0.08, 0.07, 0.07]),
            (25.0, [0.85, 0.85, 0.84]),
            (15.0, [0.35, 0.22, 0.13]),
            (10.0, [0.60, 0.15, 0.15]),
        ]);
        let bag = dice.choose(&[
            (42.0, Bag::None),
            (26.0, Bag::Backpack),
            (20.0, Bag::Shoulder),
            (12.0, Bag::Hand),
        ]);
        let bag_colour = dice.choose(&BAGS);
        Looks {
            height: dice.roll(0.92, 1.06) - if slender { 0.03 } else { 0.0 },
            broad: if slender { dice.roll(0.8, 1.05) } else { dice.roll(0.92, 1.28) },
            waist: if slender { dice.roll(0.74, 0.92) } else { dice.roll(0.92, 1.08) },
            skin,
            hair,
            hair_colour,
            top,
            pattern,
            second,
            sleeves,
            hem,
            bottom,
            bottom_colour,
            bottom_length,
            shoes,
            bag,
            bag_colour,
            bag_side: if dice.chance(0.5) { 1.0 } else { -1.0 },
            stride: dice.roll(0.055, 0.085),
            outfit: None,
        }
    }

    /// Random looks with clothes in layers, in more colours.
    pub fn roll_layered(dice: &mut Dice) -> Looks {
        let mut looks = Looks::roll(dice);
        for part in [&mut looks.top, &mut looks.bottom_colour, &mut looks.shoes, &mut looks.bag_colour] {
            let free = outfit::colour(dice);
            if dice.chance(0.45) {
                *part = free;
            }
        }
        looks.outfit = Some(Outfit::roll(dice, looks.top));
        looks
    }

    /// The looks of a look-alike: all but one or two attributes, which are those of `other`.
    pub fn alike(&self, other: Looks, dice: &mut Dice) -> Looks {
        let mut looks = self.clone();
        for _ in 0..1 + usize::from(dice.chance(0.5)) {
            match (dice.roll(0.0, 1.0) * 9.0) as u32 {
                0 => looks.shoes = other.shoes,
                1 => (looks.bag, looks.bag_colour) = (other.bag, other.bag_colour),
                2 => (looks.hair, looks.hair_colour) = (other.hair, other.hair_colour),
                3 => looks.bottom_colour = other.bottom_colour,
                4 => (looks.sleeves, looks.hem) = (other.sleeves, other.hem),
                5 => (looks.height, looks.broad) = (other.height, other.broad),
                change => {
                    let switches = [change == 6, change == 7, change == 8];
                    if let (Some(outfit), Some(other)) = (&mut looks.outfit, &other.outfit) {
                        outfit.adopt(other, switches);
                    }
                }
            }
        }
        looks
    }

    /// Colour of a sleeve.
    fn sleeve(&self) -> Colour {
        self.outfit.as_ref().map_or(self.top, Outfit::sleeve)
    }

    /// Colour of trousers at a position from hip (0) to foot (1).
    fn leg(&self, along: f32) -> Colour {
        self.outfit.as_ref().map_or(self.bottom_colour, |outfit| outfit.leg(self.bottom_colour, along))
    }

    /// Colour of the top at a point of the trunk: `down` from 0 at the neck to 1 at the hem; `side` and `front` are the
    /// direction that the cloth faces.
    fn cloth(&self, noise: &Noise, down: f32, side: f32, front: f32) -> Colour {
        let strap = match self.bag {
            Bag::Backpack => front > 0.0 && (side.abs() - 0.55).abs() < 0.13 && down < 0.6,
            Bag::Shoulder => (side - self.bag_side * mix(-0.75, 0.9, down)).abs() < 0.1,
            Bag::None | Bag::Hand => false,
        };
        if strap {
            return self.bag_colour;
        }
        if let Some(outfit) = &self.outfit {
            return outfit.cloth(noise, down, side, front);
        }
        match self.pattern {
            Pattern::Stripes if ((down * 5.5).floor() as i32) % 2 == 1 => self.second,
            Pattern::Print if front > 0.5 && side.abs() < 0.45 && (0.22..0.5).contains(&down) => self.second,
            Pattern::Halves if down > 0.52 => self.second,
            Pattern::Jacket if front > 0.0 && side.abs() < 0.16 + 0.12 * down => self.second,
            _ => self.top,
        }
    }
}

/// Pose in a walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pose {
    /// Walking direction in turns: 0 towards the camera, ¼ to the right, ½ away, ¾ to the left.
    pub heading: f32,
    /// Phase of the cycle of two steps, in turns.
    pub phase: f32,
}

/// View of a person.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// The ground under the person.
    pub feet: Point,
    /// Pixels per unit of height.
    pub scale: f32,
    /// Elevation of the camera, 0 (eye level) to ½.
    pub above: f32,
    /// Direction of the light.
    pub light: Normal,
}

/// Side, front, up.
type Position = [f32; 3];

/// A height of the trunk or a skirt, with half its width and half its depth.
type Girth = (f32, f32, f32);

/// The light on a person.
#[derive(Clone, Copy)]
struct Light<'a> {
    view: View,
    noise: &'a Noise,
    /// Offset of the folds in the clothes.
    folds: f32,
}

impl Light<'_> {
    /// Light on a smooth surface.
    fn smooth(self, colour: Colour, normal: Normal) -> Colour {
        let from = self.view.light;
        let towards = normal[0] * from[0] + normal[1] * from[1] + normal[2] * from[2];
        let bright = 0.62 + 0.5 * towards.max(0.0);
        colour.map(|c| c * bright)
    }

    /// Light on cloth with folds, scaled with the person.
    fn cloth(self, colour: Colour, normal: Normal, at: Point) -> Colour {
        let [x, y] = at.map(|v| v * 230.0 / self.view.scale);
        let fold = self.noise.at(x / 7.0 + self.folds, y / 11.0 + x / 19.0 + self.folds);
        self.smooth(colour, normal).map(|c| c * (0.85 + 0.3 * fold))
    }
}

type Shape<'a> = Box<dyn Fn(&mut Canvas) + 'a>;

/// Collects the shapes of a person, seen from one direction.
struct Painter<'a> {
    light: Light<'a>,
    sine: f32,
    cosine: f32,
    /// Nearness of each shape, and the function that paints it.
    shapes: Vec<(f32, Shape<'a>)>,
}

impl<'a> Painter<'a> {
    /// Projects a position of the body to the canvas. Also returns its nearness.
    fn project(&self, [side, front, up]: Position) -> (Point, f32) {
        let View { feet, scale, above, .. } = self.light.view;
        let near = front * self.cosine - side * self.sine;
        let across = side * self.cosine + front * self.sine;
        // From above, the head is nearer and the legs are foreshortened.
        let grown = scale * (1.0 + above * 0.35 * (up - 0.5));
        (
            [
                feet[0] + grown * across,
                feet[1] - grown * up * (1.0 - 0.2 * above) + scale * near * above * 0.6,
            ],
            near,
        )
    }

    /// Adds a limb with a radius at each end. `colour` gets the position along it, 0 to 1.
    fn limb(
        &mut self,
        from: Position,
        to: Position,
        radii: Point,
        nearer: f32,
        colour: impl Fn(f32) -> Colour + 'a,
    ) {
        let ((a, near_a), (b, near_b)) = (self.project(from), self.project(to));
        let radii = radii.map(|radius| radius * self.light.view.scale);
        let light = self.light;
        self.shapes.push((
            (near_a + near_b) / 2.0 + nearer,
            Box::new(move |canvas| {
                canvas.bar(a, b, radii, |t, normal| {
                    light.cloth(colour(t), normal, [mix(a[0], b[0], t) + normal[0] * 9.0, mix(a[1], b[1], t)])
                });
            }),
        ));
    }

    /// Adds an ellipsoid with half axes (side, front, up). `colour` gets the direction (side, front, up) of the
    /// surface.
    fn ball(
        &mut self,
        middle: Position,
        radii: Position,
        nearer: f32,
        colour: impl Fn(Position) -> Option<Colour> + 'a,
    ) {
        let (at, near) = self.project(middle);
        let width = self.width(radii[0], radii[1]) * self.light.view.scale;
        let height = radii[2] * self.light.view.scale;
        let (sine, cosine, light) = (self.sine, self.cosine, self.light);
        self.shapes.push((
            near + nearer,
            Box::new(move |canvas| {
                canvas.ellipsoid(at, [width, height], |normal| {
                    let [x, y, z] = normal;
                    let colour = colour([x * cosine - z * sine, x * sine + z * cosine, -y])?;
                    Some(light.smooth(colour, normal))
                });
            }),
        ));
    }

    /// Visible half width of an upright ellipse.
    fn width(&self, side: f32, front: f32) -> f32 {
        let (a, b) = (side * self.cosine, front * self.sine);
        (a * a + b * b).sqrt()
    }

    /// Adds a body of horizontal ellipses, from the top down. `colour` gets the position from the top, 0 to 1, and the
    /// side and front that the surface faces.
    fn trunk(&mut self, girths: &[Girth], nearer: f32, colour: impl Fn(f32, f32, f32) -> Colour + 'a) {
        let rows: Vec<(f32, f32, f32)> = girths
            .iter()
            .map(|&(up, side, front)| {
                let (at, _) = self.project([0.0, 0.0, up]);
                (at[1], at[0], self.width(side, front) * self.light.view.scale)
            })
            .collect();
        let (sine, cosine) = (self.sine, self.cosine);
        let light = self.light;
        self.shapes.push((
            nearer,
            Box::new(move |canvas| {
                let (first, last) = (rows[0], rows[rows.len() - 1]);
                let most = rows.iter().fold(0.0f32, |most, row| most.max(row.2));
                let (low, high) = ([first.1 - most - 9.0, first.0], [first.1 + most + 9.0, last.0]);
                canvas.paint(low, high, |x, y, _| {
                    let pair = rows.windows(2).find(|pair| pair[0].0 <= y && y < pair[1].0)?;
                    let t = (y - pair[0].0) / (pair[1].0 - pair[0].0);
                    let across = (x - mix(pair[0].1, pair[1].1, t)) / mix(pair[0].2, pair[1].2, t);
                    let depth = 1.0 - across * across;
                    if depth < 0.0 {
                        return None;
                    }
                    let depth = depth.sqrt();
                    let down = (y - first.0) / (last.0 - first.0);
                    let faced = colour(down, across * cosine - depth * sine, across * sine + depth * cosine);
                    Some(light.cloth(faced, [across, 0.0, depth], [x, y]))
                });
            }),
        ));
    }
}

/// Paints a person. `folds` is a random offset of the folds.
pub(super) fn draw(canvas: &mut Canvas, looks: &Looks, pose: Pose, view: View, noise: &Noise, folds: f32) {
    let view = View { scale: view.scale * looks.height, ..view };
    let light = Light { view, noise, folds };
    let mut painter =
        Painter { light, sine: sine(pose.heading), cosine: cosine(pose.heading), shapes: Vec::new() };
    let swing = looks.stride * sine(pose.phase);
    // The body is lower when the legs are apart.
    let sunk = 0.49 * (1.0 - cosine(swing));
    let lowered = move |[side, front, up]: Position| [side, front, up - sunk];
    let bulk = 0.5 + 0.5 * looks.broad;
    draw_legs(&mut painter, looks, pose, sunk, bulk);
    draw_arms(&mut painter, looks, pose, sunk, bulk);

    let (broad, waist) = (looks.broad, looks.broad * looks.waist);
    let girths = |list: &[Girth], narrow: f32| -> Vec<Girth> {
        list.iter()
            .map(|&(up, side, front)| (up - sunk, side * narrow, front * (0.4 + 0.6 * narrow)))
            .collect()
    };
    // Hips, under the top.
    let hips = looks.bottom_colour;
    painter.trunk(
        &girths(&[(0.62, 0.10, 0.075), (0.53, 0.112, 0.088), (0.455, 0.10, 0.08)], broad),
        0.0,
        move |_, _, _| hips,
    );
    if looks.bottom == Bottom::Skirt {
        let end = mix(0.5, 0.06, looks.bottom_length);
        let flare = 0.105 + 0.08 * looks.bottom_length;
        let skirt = girths(&[(0.62, 0.095, 0.07), (0.53, 0.112, 0.09), (end, flare, flare * 0.9)], broad);
        let colour = looks.bottom_colour;
        painter.trunk(&skirt, 0.004, move |_, _, _| colour);
    }
    let hem = 0.515 - looks.hem;
    let mut top = girths(
        &[
            (0.85, 0.042, 0.04),
            (0.835, 0.07, 0.05),
            (0.815, 0.102, 0.06),
            (0.79, 0.118, 0.072),
            (0.74, 0.12, 0.085),
        ],
        broad,
    );
    top.extend(girths(&[(0.62, 0.108, 0.078)], waist));
    top.extend(girths(&[(hem, 0.118, 0.092)], broad * mix(looks.waist, 1.0, 0.7)));
    painter.trunk(&top, 0.008, |down, side, front| looks.cloth(noise, down, side, front));

    draw_head(&mut painter, looks, sunk);
    match looks.bag {
        Bag::Backpack => {
            let radii = [0.10 * bulk, 0.06, 0.13];
            painter.ball(lowered([0.0, -0.115, 0.70]), radii, 0.0, |_| Some(looks.bag_colour));
        }
        Bag::Shoulder => {
            let at = [looks.bag_side * 0.155 * broad, 0.0, 0.49];
            painter.ball(lowered(at), [0.035, 0.08, 0.062], 0.03, |_| Some(looks.bag_colour));
        }
        Bag::None | Bag::Hand => {}
    }

    let mut shapes = painter.shapes;
    // Stable, so that equally near shapes keep their order.
    shapes.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (_, paint) in shapes {
        paint(canvas);
    }
}

fn draw_legs<'a>(painter: &mut Painter<'a>, looks: &'a Looks, pose: Pose, sunk: f32, bulk: f32) {
    // The trunk's clothes always cover the legs.
    let under = -0.2;
    for left in [1.0, -1.0] {
        let phase = pose.phase + if left > 0.0 { 0.0 } else { 0.5 };
        let thigh = looks.stride * sine(phase) + 0.01;
        // A leg bends while it swings forward.
        let bend = 0.015 + 0.13 * cosine(phase).max(0.0) * cosine(phase).max(0.0);
        let shank = thigh - bend;
        let hip = [left * 0.055 * looks.broad, 0.0, 0.5 - sunk];
        let knee = [left * 0.05 * looks.broad, 0.235 * sine(thigh), hip[2] - 0.235 * cosine(thigh)];
        let ankle = [left * 0.045, knee[1] + 0.225 * sine(shank), knee[2] - 0.225 * cosine(shank)];
        let toe = [ankle[0] * 1.3, ankle[1] + 0.085 * cosine(shank), ankle[2] - 0.015 + 0.06 * sine(shank)];

        let length = looks.bottom_length;
        // Wider below the knee in long trousers.
        let (calf, cuff) = if length >= 1.0 { (0.045, 0.038) } else { (0.04, 0.027) };
        let covered = if looks.bottom == Bottom::Skirt { 0.0 } else { length };
        let colour = move |along: f32| if along <= covered { looks.leg(along) } else { looks.skin };
        painter.limb(hip, knee, [0.064 * bulk, 0.047 * bulk], under, move |t| colour(t * 0.5));
        painter.limb(knee, ankle, [calf * bulk, cuff * bulk], under, move |t| colour(0.5 + t * 0.5));
        painter.limb(ankle, toe, [0.03, 0.022], under - 0.002, |_| looks.shoes);
    }
}

fn draw_arms<'a>(painter: &mut Painter<'a>, looks: &'a Looks, pose: Pose, sunk: f32, bulk: f32) {
    for left in [1.0, -1.0] {
        let carries = looks.bag == Bag::Hand && left == looks.bag_side;
        let phase = pose.phase + if left > 0.0 { 0.5 } else { 0.0 };
        // Arms swing against the leg of their side; an arm that carries a bag hangs.
        let upper = looks.stride * sine(phase) * if carries { 0.25 } else { 0.85 } - 0.01;
        let lower = upper + if carries { 0.01 } else { 0.05 + 0.03 * sine(phase) };
        let shoulder = [left * 0.108 * looks.broad, 0.0, 0.786 - sunk];
        let elbow =
            [left * (0.108 * looks.broad + 0.03), 0.17 * sine(upper), shoulder[2] - 0.17 * cosine(upper)];
        let hand = [elbow[0], elbow[1] + 0.15 * sine(lower), elbow[2] - 0.15 * cosine(lower)];
        let colour = move |along: f32| if along <= looks.sleeves { looks.sleeve() } else { looks.skin };
        let sleeve = if looks.sleeves >= 1.0 { 0.004 } else { 0.0 };
        painter.limb(shoulder, elbow, [0.036 * bulk + sleeve, 0.031 * bulk + sleeve], 0.012, move |t| {
            colour(t * 0.5)
        });
        painter.limb(elbow, hand, [0.03 * bulk + sleeve, 0.023 * bulk + sleeve], 0.012, move |t| {
            colour(0.5 + t * 0.45)
        });
        let palm = [hand[0], hand[1], hand[2] - 0.02];
        painter.ball(palm, [0.02, 0.026, 0.03], 0.013, |_| Some(looks.skin));
        if carries {
            let bag = [palm[0], palm[1], palm[2] - 0.085];
            painter.ball(bag, [0.03, 0.085, 0.07], 0.014, |_| Some(looks.bag_colour));
        }
    }
}

fn draw_head<'a>(painter: &mut Painter<'a>, looks: &'a Looks, sunk: f32) {
    let up = 0.92 - sunk;
    painter.limb([0.0, -0.01, 0.83 - sunk], [0.0, 0.0, up - 0.03], [0.034, 0.03], 0.007, |_| looks.skin);
    let (skin, colour) = (looks.skin, looks.hair_colour);
    let hair = looks.hair;
    painter.ball([0.0, 0.008, up], [0.053, 0.061, 0.074], 0.03, move |[side, front, up]| {
        let covered = match hair {
            Hair::Bald => front < -0.2 && up < 0.25 && up > -0.5,
            Hair::Cap(_) => front < 0.0 && up > -0.5,
            Hair::Long => up > -0.75 + 1.2 * front,
            Hair::Short | Hair::Tail => up > -0.3 + 0.8 * front,
        };
        let eye = front > 0.6 && (side.abs() - 0.36).abs() < 0.17 && (-0.02..0.16).contains(&up);
        Some(match hair {
            Hair::Cap(cap) if up > 0.25 => cap,
            _ if covered => colour,
            _ if eye => skin.map(|c| c * 0.45),
            _ => skin,
        })
    });
    match hair {
        Hair::Short => {
            painter.ball([0.0, -0.012, up + 0.014], [0.057, 0.06, 0.068], 0.0, move |_| Some(colour))
        }
        Hair::Long => {
            painter.ball([0.0, -0.02, up - 0.025], [0.065, 0.056, 0.104], 0.016, move |_| Some(colour));
        }
        Hair::Tail => {
            painter.ball([0.0, -0.012, up + 0.012], [0.056, 0.06, 0.068], 0.0, move |_| Some(colour));
            let (root, end) = ([0.0, -0.062, up + 0.03], [0.0, -0.085, up - 0.08]);
            painter.limb(root, end, [0.024, 0.014], 0.0, move |_| colour);
        }
        Hair::Cap(cap) => {
            painter.limb(
                [0.0, 0.04, up + 0.022],
                [0.0, 0.095, up + 0.012],
                [0.024, 0.012],
                0.035,
                move |_| cap,
            );
        }
        Hair::Bald => {}
    }
}
