//! Text as pen strokes, drawn at the resolution of the image.

use crate::images::decode::Rgb;

/// Height of a capital letter in units of the glyphs' grid.
const CAPITAL: f64 = 6.0;
/// Width of the pen and the gap between characters, in units.
const PEN: f64 = 0.9;
const GAP: f64 = 1.9;
/// Width of a space, in units.
const SPACE: f64 = 2.0;

/// Glyphs: polylines of points, each a column and a row of the grid. Row 0 is the top of capitals, row 2 that of small
/// letters, row 6 the baseline, row 8 the end of descenders.
const GLYPHS: [(char, &str); 47] = [
    ('0', "10 30 41 45 36 16 05 01 10"),
    ('1', "01 20 26"),
    ('2', "01 10 30 41 42 06 46"),
    ('3', "01 10 30 41 42 33 23,33 44 45 36 16 05"),
    ('4', "36 30 04 44"),
    ('5', "40 00 02 32 43 45 36 16 05"),
    ('6', "41 30 10 01 05 16 36 45 44 33 13 04"),
    ('7', "00 40 16"),
    ('8', "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33"),
    ('9', "05 16 36 45 41 30 10 01 02 13 33 42"),
    ('.', "06 06"),
    ('-', "04 24"),
    (':', "03 03,06 06"),
    ('%', "40 06,00 10 11 01 00,35 45 46 36 35"),
    ('A', "06 20 46,14 34"),
    ('I', "10 16,00 20,06 26"),
    ('M', "06 00 23 40 46"),
    ('P', "06 00 30 41 42 33 03"),
    ('Q', "10 30 41 45 36 16 05 01 10,24 46"),
    ('S', "41 30 10 01 02 13 33 44 45 36 16 05"),
    ('C', "41 30 10 01 05 16 36 45"),
    ('a', "42 46,43 32 12 03 05 16 36 45"),
    ('b', "00 06,03 12 32 43 45 36 16 05"),
    ('c', "43 32 12 03 05 16 36 45"),
    ('d', "40 46,43 32 12 03 05 16 36 45"),
    ('e', "04 44 43 32 12 03 05 16 36 45"),
    ('f', "30 20 11 16,02 32"),
    ('g', "42 47 38 18 07,43 32 12 03 05 16 36 45"),
    ('h', "00 06,03 12 32 43 46"),
    ('i', "02 06,00 00"),
    ('j', "12 17 08,10 10"),
    ('k', "00 06,32 04,14 36"),
    ('l', "00 06"),
    ('m', "02 06,03 12 23 26,23 32 43 46"),
    ('n', "02 06,03 12 32 43 46"),
    ('o', "12 32 43 45 36 16 05 03 12"),
    ('p', "02 08,03 12 32 43 45 36 16 05"),
    ('q', "42 48,43 32 12 03 05 16 36 45"),
    ('r', "02 06,03 12 32"),
    ('s', "43 32 12 03 14 34 45 36 16 05"),
    ('t', "10 15 26 36,02 32"),
    ('u', "02 05 16 36 45,42 46"),
    ('v', "02 26 42"),
    ('w', "02 16 23 36 42"),
    ('x', "02 46,42 06"),
    ('y', "02 05 16 36 45,42 47 38 18 07"),
    ('z', "02 42 06 46"),
];

type Point = (f64, f64);

/// The segments of a character on the grid; none of one without a glyph.
fn segments(character: char) -> Vec<(Point, Point)> {
    let strokes = GLYPHS.iter().find(|(name, _)| *name == character).map_or("", |(_, strokes)| strokes);
    let mut segments = Vec::new();
    for stroke in strokes.split(',') {
        let points: Vec<Point> = stroke
            .split(' ')
            .filter_map(|point| {
                let digits: Vec<f64> = point.chars().filter_map(|c| c.to_digit(10)).map(f64::from).collect();
                Some((*digits.first()?, *digits.get(1)?))
            })
            .collect();
        segments.extend(points.windows(2).map(|pair| (pair[0], pair[1])));
    }
    segments
}

/// Width of a character without the gap, in units.
fn glyph_width(character: char) -> f64 {
    let points = segments(character).into_iter().flat_map(|(from, to)| [from.0, to.0]);
    points.fold(None, |widest: Option<f64>, x| Some(x.max(widest.unwrap_or(0.0)))).unwrap_or(SPACE)
}

/// Width of a text in pixels, if its capitals are `height` pixels high.
pub fn width(text: &str, height: usize) -> usize {
    let units: f64 = text.chars().map(|character| glyph_width(character) + GAP).sum();
    (units * height as f64 / CAPITAL).ceil() as usize
}

/// Writes text in black; the upper left corner of the first capital is there.
pub fn write(image: &mut Rgb, text: &str, left: usize, top: usize, height: usize) {
    let unit = height as f64 / CAPITAL;
    let radius = (PEN * unit / 2.0).max(0.65);
    let mut x = left as f64 + radius;
    for character in text.chars() {
        let place = |(column, row): Point| (x + column * unit, top as f64 + row * unit);
        for (from, to) in segments(character) {
            draw_line(image, place(from), place(to), radius);
        }
        x += (glyph_width(character) + GAP) * unit;
    }
}

/// Draws a line with round ends, blended by how much of each pixel it covers.
fn draw_line(image: &mut Rgb, from: Point, to: Point, radius: f64) {
    let reach = radius + 1.0;
    let range = |a: f64, b: f64, end: usize| {
        let (low, high) = ((a.min(b) - reach).max(0.0), (a.max(b) + reach).max(0.0));
        low as usize..(high as usize + 1).min(end)
    };
    for y in range(from.1, to.1, image.height) {
        for x in range(from.0, to.0, image.width) {
            let distance = distance((x as f64 + 0.5, y as f64 + 0.5), from, to);
            let covered = (radius + 0.5 - distance).clamp(0.0, 1.0);
            for channel in &mut image.pixels[3 * (y * image.width + x)..][..3] {
                *channel = (f64::from(*channel) * (1.0 - covered)).round() as u8;
            }
        }
    }
}

/// The distance of a point from a segment.
fn distance(point: Point, from: Point, to: Point) -> f64 {
    let (along, away) = ((to.0 - from.0, to.1 - from.1), (point.0 - from.0, point.1 - from.1));
    let length = along.0 * along.0 + along.1 * along.1;
    let part = if length > 0.0 { (away.0 * along.0 + away.1 * along.1) / length } else { 0.0 };
    let part = part.clamp(0.0, 1.0);
    (away.0 - part * along.0).hypot(away.1 - part * along.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Rgb {
        let mut image = Rgb { height: 24, width: 24, pixels: vec![255; 3 * 24 * 24] };
        write(&mut image, text, 2, 2, 14);
        image
    }

    #[test]
    fn every_character_is_another() {
        let blank = written(" ").pixels;
        for (i, (one, _)) in GLYPHS.iter().enumerate() {
            assert!(written(&one.to_string()).pixels != blank, "{one}");
            for (other, _) in &GLYPHS[..i] {
                let same = written(&one.to_string()).pixels == written(&other.to_string()).pixels;
                assert!(!same, "{one} {other}");
            }
        }
    }

    #[test]
    fn strokes_are_dark_and_their_edges_are_smooth() {
        // A vertical stroke of 2.1 pixels around x = 3.05.
        let image = written("l");
        let row: Vec<u8> = (0..8).map(|x| image.pixels[3 * (24 * 9 + x)]).collect();
        assert_eq!((row[2], row[3]), (0, 0), "{row:?}");
        assert!(row[0] == 255 && row[6] == 255, "{row:?}");
        // The slopes of A have pixels between black and white.
        assert!(written("A").pixels.iter().any(|&value| (64..192).contains(&value)));
    }

    #[test]
    fn wider_text_is_wider_and_nothing_is_written_outside() {
        assert!(width("Image", 12) < width("Image 1", 12) && width("i", 12) < width("m", 12));
        assert_eq!(width("", 12), 0);
        let mut image = Rgb { height: 3, width: 3, pixels: vec![255; 27] };
        write(&mut image, "Attention rollout", 1, 1, 40);
    }
}
