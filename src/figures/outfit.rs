//! Clothes in layers: a shirt with a fabric and prints, a jacket over it, and trousers.
//!
//! Cloth lies on a cylinder around the body, so a print on the chest vanishes as the person turns, and one on the back
//! appears.

use super::canvas::{Colour, Dice, Noise, blend};

/// The clothes of a person, beside what [`Looks`](super::person::Looks) has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outfit {
    fabric: Fabric,
    /// Colours of the fabric.
    colours: [Colour; 3],
    /// Prints on chest and back.
    prints: [Option<Print>; 2],
    jacket: Option<Jacket>,
    sleeve: Colour,
    leg: Leg,
}

/// The pattern of a shirt. Numbers are repetitions over the height of the trunk, or a share of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fabric {
    Plain,
    Across(f32),
    Down(f32),
    Checks(f32),
    Dots(f32),
    Blobs(f32),
    Fade,
    Halves(f32),
    Sides(f32),
}

/// A sign of 4×4 fields on the cloth.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Print {
    colour: Colour,
    /// Middle, along the body's side and down the trunk.
    at: [f32; 2],
    size: [f32; 2],
    /// One bit per field.
    fields: u32,
}

/// A layer over the shirt.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Jacket {
    colour: Colour,
    /// Half the width of the opening in front.
    gap: f32,
    zip: Colour,
}

/// The pattern of trousers. Numbers are positions from hip to foot.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Leg {
    Plain,
    Worn(f32),
    Cuff(f32, Colour),
    Knee(Colour),
}

/// A random colour of clothes: dark ones are common, saturated ones rare.
pub(super) fn colour(dice: &mut Dice) -> Colour {
    let light = dice.roll(0.0, 1.0);
    let grey = 0.05 + 0.87 * light * light;
    let strong = dice.roll(0.0, 1.0);
    let strength = 0.75 * strong * strong * strong + 0.06;
    let tint = [(); 3].map(|()| dice.roll(-1.0, 1.0));
    let mean = (tint[0] + tint[1] + tint[2]) / 3.0;
    tint.map(|t| (grey + strength * (t - mean) * (0.35 + 0.65 * grey)).clamp(0.02, 0.97))
}

impl Outfit {
    /// Random clothes over a shirt of the colour `top`.
    pub fn roll(dice: &mut Dice, top: Colour) -> Outfit {
        let colours = [top, colour(dice), colour(dice)];
        let fine = dice.roll(0.0, 1.0);
        let fabric = dice.choose(&[
            (34.0, Fabric::Plain),
            (11.0, Fabric::Across(3.0 + 11.0 * fine)),
            (5.0, Fabric::Down(3.0 + 9.0 * fine)),
            (8.0, Fabric::Checks(4.0 + 8.0 * fine)),
            (4.0, Fabric::Dots(5.0 + 6.0 * fine)),
            (7.0, Fabric::Blobs(4.0 + 10.0 * fine)),
            (4.0, Fabric::Fade),
            (10.0, Fabric::Halves(0.25 + 0.5 * fine)),
            (8.0, Fabric::Sides(0.45 + 0.7 * fine)),
        ]);
        let front = dice.chance(0.4).then(|| Print::roll(dice, [0.1, 0.55]));
        let back = dice.chance(0.35).then(|| Print::roll(dice, [0.35, 0.85]));
        let jacket = dice.chance(0.3).then(|| {
            let gap = if dice.chance(0.6) { dice.roll(0.15, 0.5) } else { 0.03 };
            Jacket { colour: colour(dice), gap, zip: colour(dice) }
        });
        let sleeve = match jacket {
            Some(Jacket { colour, .. }) => colour,
            None if dice.chance(0.2) => colours[1],
            None => top,
        };
        let (other, share) = (colour(dice), dice.roll(0.0, 1.0));
        let leg = dice.choose(&[
            (62.0, Leg::Plain),
            (20.0, Leg::Worn(0.1 + 0.35 * share)),
            (10.0, Leg::Cuff(0.78 + 0.14 * share, other)),
            (8.0, Leg::Knee(other)),
        ]);
        Outfit { fabric, colours, prints: [front, back], jacket, sleeve, leg }
    }

    /// Takes fabric, prints and jacket from another outfit, each if its switch is on.
    pub fn adopt(&mut self, other: &Outfit, [fabric, prints, jacket]: [bool; 3]) {
        if fabric {
            (self.fabric, self.colours[1], self.colours[2]) =
                (other.fabric, other.colours[1], other.colours[2]);
        }
        if prints {
            self.prints = other.prints;
        }
        if jacket {
            (self.jacket, self.sleeve) = (other.jacket, other.sleeve);
        }
    }

    /// Colour of the sleeves.
    pub fn sleeve(&self) -> Colour {
        self.sleeve
    }

    /// Colour of the trousers at a position from hip (0) to foot (1).
    pub fn leg(&self, colour: Colour, along: f32) -> Colour {
        match self.leg {
            Leg::Plain => colour,
            // Lighter in the middle of thigh and shank.
            Leg::Worn(most) => {
                let near = 1.0 - ((along * 2.0 - (along * 2.0).floor()) - 0.5).abs() * 2.0;
                blend(colour, [0.75, 0.78, 0.82], most * near)
            }
            Leg::Cuff(from, cuff) if along > from => cuff,
            Leg::Knee(patch) if (0.42..0.58).contains(&along) => patch,
            Leg::Cuff(..) | Leg::Knee(_) => colour,
        }
    }

    /// Colour of the trunk: `down` from 0 at the neck to 1 at the hem; `side` and `front` are the direction that the cloth
    /// faces.
    pub fn cloth(&self, noise: &Noise, down: f32, side: f32, front: f32) -> Colour {
        let around = around(side, front);
        if let Some(Jacket { colour, gap, zip }) = self.jacket {
            let from_middle = around.abs();
            // Wider at the neck.
            let gap = gap * (1.25 - 0.5 * down);
            if from_middle > gap {
                let edge = gap < 0.1 && from_middle < gap + 0.05;
                let printed = self.prints[1].and_then(|print| print.at(turned(around), down));
                return printed.unwrap_or(if edge { zip } else { colour });
            }
        } else if let Some(printed) = self.prints[1].and_then(|print| print.at(turned(around), down)) {
            return printed;
        }
        if let Some(printed) = self.prints[0].and_then(|print| print.at(around, down)) {
            return printed;
        }
        let [first, second, third] = self.colours;
        let odd = |v: f32| (v.floor() as i32).rem_euclid(2) == 1;
        let fraction = |v: f32| v - v.floor();
        match self.fabric {
            Fabric::Plain => first,
            Fabric::Across(count) if odd(down * count) => second,
            Fabric::Down(count) if odd(around * count * 0.5) => second,
            Fabric::Checks(count) => match (odd(down * count), odd(around * count * 0.5)) {
                (true, true) => second,
                (false, false) => first,
                _ => blend(first, second, 0.5),
            },
            Fabric::Dots(count) => {
                let (x, y) = (fraction(around * count * 0.5) - 0.5, fraction(down * count) - 0.5);
                if x * x + y * y < 0.09 { second } else { first }
            }
            Fabric::Blobs(count) => match noise.at(around * count + 31.0, down * count + 7.0) {
                dark if dark < 0.36 => second,
                light if light > 0.66 => third,
                _ => first,
            },
            Fabric::Fade => blend(first, second, down),
            Fabric::Halves(at) if down > at => second,
            Fabric::Sides(from) if (around.abs() - 1.0).abs() < 1.0 - from => second,
            Fabric::Across(_) | Fabric::Down(_) | Fabric::Halves(_) | Fabric::Sides(_) => first,
        }
    }
}

impl Print {
    fn roll(dice: &mut Dice, sizes: [f32; 2]) -> Print {
        let size = dice.roll(sizes[0], sizes[1]);
        let at = [dice.roll(-0.25, 0.25), dice.roll(0.2, 0.5)];
        let height = size * dice.roll(0.2, 0.5);
        let fields = dice.roll(1.0, 65_535.0) as u32 | 0x0660;
        Print { colour: colour(dice), at, size: [size, height], fields }
    }

    /// The colour at a point of the cloth, if the print covers it.
    fn at(&self, around: f32, down: f32) -> Option<Colour> {
        let place = |v: f32, axis: usize| (v - self.at[axis]) / self.size[axis] + 0.5;
        let (x, y) = (place(around, 0), place(down, 1));
        let inside = (0.0..1.0).contains(&x) && (0.0..1.0).contains(&y);
        let field = || (y * 4.0) as u32 * 4 + (x * 4.0) as u32;
        (inside && self.fields >> field() & 1 == 1).then_some(self.colour)
    }
}

/// Position around the body: 0 in front, 1 at the left, −1 at the right, ±2 at the back. Not an angle, but as steady.
fn around(side: f32, front: f32) -> f32 {
    let share = side.abs() / (side.abs() + front.abs()).max(1e-6);
    let from_front = if front >= 0.0 { share } else { 2.0 - share };
    if side < 0.0 { -from_front } else { from_front }
}

/// The same position, counted from the back.
fn turned(around: f32) -> f32 {
    if around > 0.0 { around - 2.0 } else { around + 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_are_on_one_side_and_jackets_cover_shirts() {
        let noise = Noise::new(0);
        let (red, blue, black) = ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0; 3]);
        let print = Print { colour: blue, at: [0.0, 0.4], size: [0.5, 0.3], fields: 0xffff };
        let mut outfit = Outfit {
            fabric: Fabric::Plain,
            colours: [red; 3],
            prints: [Some(print), None],
            jacket: None,
            sleeve: red,
            leg: Leg::Plain,
        };
        assert_eq!(outfit.cloth(&noise, 0.4, 0.0, 1.0), blue);
        assert_eq!(outfit.cloth(&noise, 0.4, 0.0, -1.0), red);
        outfit.prints = [None, Some(print)];
        assert_eq!(outfit.cloth(&noise, 0.4, 0.0, 1.0), red);
        assert_eq!(outfit.cloth(&noise, 0.4, 0.0, -1.0), blue);
        outfit.jacket = Some(Jacket { colour: black, gap: 0.3, zip: black });
        assert_eq!(outfit.cloth(&noise, 0.9, 0.0, 1.0), red);
        assert_eq!(outfit.cloth(&noise, 0.9, 1.0, 0.2), black);
        assert_eq!(outfit.cloth(&noise, 0.4, 0.0, -1.0), blue);
    }

    #[test]
    fn positions_around_the_body_are_steady() {
        for (side, front, wanted) in
            [(0.0, 1.0, 0.0), (1.0, 0.0, 1.0), (-1.0, 0.0, -1.0), (0.0, -1.0, 2.0), (0.5, 0.5, 0.5)]
        {
            assert_eq!(around(side, front), wanted);
        }
        assert_eq!((turned(2.0), turned(-1.5)), (0.0, 0.5));
    }
}
