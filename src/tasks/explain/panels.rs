//! Three panels side by side: the image; attention rollout as a heat map over it, with a legend; its part rows, numbered.

use super::Explanation;
use crate::images::decode::Rgb;
use crate::images::preprocess;
use crate::shape::{ImageSize, VitConfig};

/// A panel has the image's own size, but is enlarged until its shorter side has so many pixels ...
const SHORTEST_SIDE: f64 = 256.0;
/// ... and every part row so many, as a digit needs them; ...
const ROW_HEIGHT: f64 = 10.0;
/// ... and whatever the image, its longer side has no more than this.
const LONGEST_SIDE: f64 = 1024.0;

/// Around the panels.
const MARGIN: usize = 12;
/// Between a panel and what belongs to it.
const SPACE: usize = 6;
/// Width of the legend's bar of colours.
const BAR: usize = 14;
/// Least height of the legend: its three labels.
const LEGEND: usize = 60;

/// How much of a heat map's pixel is its colour; the rest is the image in grey.
const STRENGTH: f64 = 0.7;
/// The heat map's colours go up to the largest share, and down to the least, but no further than this part of the largest.
const LEAST_SHOWN: f64 = 1e-3;

type Colour = [u8; 3];

const BLACK: Colour = [0; 3];
const WHITE: Colour = [255; 3];

/// Ten equidistant colours of viridis, a map whose steps look equally large (Stéfan van der Walt and Nathaniel Smith 2015,
/// matplotlib's default, CC0): dark blue to yellow.
const VIRIDIS: [Colour; 10] = [
    [0x44, 0x01, 0x54],
    [0x48, 0x28, 0x78],
    [0x3e, 0x4a, 0x89],
    [0x31, 0x68, 0x8e],
    [0x26, 0x82, 0x8e],
    [0x1f, 0x9e, 0x89],
    [0x35, 0xb7, 0x79],
    [0x6d, 0xcd, 0x59],
    [0xb4, 0xde, 0x2c],
    [0xfd, 0xe7, 0x25],
];

/// The colour of a value from 0 to 1, between the two nearest of the table.
fn viridis(value: f64) -> Colour {
    let steps = VIRIDIS.len() - 1;
    let place = value.clamp(0.0, 1.0) * steps as f64;
    let below = (place as usize).min(steps - 1);
    blend(VIRIDIS[below], VIRIDIS[below + 1], place - below as f64)
}

/// From one colour (0) to another (1).
fn blend(from: Colour, to: Colour, weight: f64) -> Colour {
    std::array::from_fn(|i| (f64::from(from[i]) * (1.0 - weight) + f64::from(to[i]) * weight).round() as u8)
}

/// Columns and rows of a character, and the step from one to the next.
const GLYPH: (usize, usize, usize) = (5, 7, 6);
/// Characters that can be written: each row's five bits from left to right.
const GLYPHS: [(char, [u8; 7]); 12] = [
    ('0', [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110]),
    ('1', [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110]),
    ('2', [0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b01000, 0b11111]),
    ('3', [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110]),
    ('4', [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010]),
    ('5', [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110]),
    ('6', [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110]),
    ('7', [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000]),
    ('8', [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110]),
    ('9', [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100]),
    ('.', [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b01100]),
    ('%', [0b11000, 0b11001, 0b00010, 0b00100, 0b01000, 0b10011, 0b00011]),
];

/// Width of a text whose pixels are squares of `scale`.
fn text_width(text: &str, scale: usize) -> usize {
    text.len() * GLYPH.2 * scale
}

/// What is drawn on.
struct Canvas(Rgb);

impl Canvas {
    fn new(size: ImageSize) -> Canvas {
        let ImageSize { height, width } = size;
        Canvas(Rgb { height, width, pixels: vec![255; 3 * height * width] })
    }

    /// A pixel; nothing outside.
    fn pixel(&mut self, x: usize, y: usize) -> Option<&mut Colour> {
        let inside = x < self.0.width && y < self.0.height;
        let at = inside.then_some(y * self.0.width + x)?;
        self.0.pixels.as_chunks_mut::<3>().0.get_mut(at)
    }

    /// Repaints the pixels of columns `xs` and rows `ys`.
    fn paint(
        &mut self,
        xs: std::ops::Range<usize>,
        ys: std::ops::Range<usize>,
        colour: impl Fn(Colour) -> Colour,
    ) {
        for y in ys {
            for x in xs.clone() {
                if let Some(pixel) = self.pixel(x, y) {
                    *pixel = colour(*pixel);
                }
            }
        }
    }

    /// Puts an image with its upper left corner there.
    fn put(&mut self, image: &Rgb, left: usize, top: usize) {
        for (i, &colour) in image.pixels.as_chunks::<3>().0.iter().enumerate() {
            if let Some(pixel) = self.pixel(left + i % image.width, top + i / image.width) {
                *pixel = colour;
            }
        }
    }

    /// Writes digits with their upper left corner there.
    fn write(&mut self, text: &str, left: usize, top: usize, scale: usize) {
        for (place, wanted) in text.chars().enumerate() {
            let rows = GLYPHS.iter().find(|(character, _)| *character == wanted).map(|(_, rows)| rows);
            for (y, row) in rows.into_iter().flatten().enumerate() {
                for x in (0..GLYPH.0).filter(|x| row >> (GLYPH.0 - 1 - x) & 1 == 1) {
                    let (x, y) = (left + (place * GLYPH.2 + x) * scale, top + y * scale);
                    self.paint(x..x + scale, y..y + scale, |_| BLACK);
                }
            }
        }
    }
}

/// The size of a panel: the image's own, its larger or its smaller image.
fn panel_size(image: &Rgb, rows: usize) -> ImageSize {
    let (height, width) = (image.height as f64, image.width as f64);
    let least = SHORTEST_SIDE / height.min(width);
    let readable = ROW_HEIGHT * rows as f64 / height;
    let factor = 1f64.max(least).max(readable).min(LONGEST_SIDE / height.max(width));
    let scaled = |side: f64| ((side * factor).round() as usize).max(1);
    ImageSize { height: scaled(height), width: scaled(width) }
}

/// Where the patches along one axis begin and end, in pixels of a panel: one edge more than there are patches.
///
/// Patches that overlap meet halfway; what lies behind the last one is not looked at.
fn edges(count: usize, patch: usize, stride: usize, input: usize, panel: usize) -> Vec<usize> {
    let overlap = (patch as f64 - stride as f64) / 2.0;
    let edge = |i: usize| match i {
        0 => 0.0,
        i if i == count => ((count - 1) * stride + patch) as f64,
        i => (i * stride) as f64 + overlap,
    };
    (0..=count).map(|i| (edge(i) * panel as f64 / input as f64).round() as usize).collect()
}

/// Draws an image of any size, what its class token takes from where, and its part rows.
///
/// The panels keep the image's shape, although the network sees it stretched to its input size. Colours go from the least to
/// the largest share of a patch on a logarithmic scale, since a single patch often has many times as much as most others;
/// the legend names both and what is halfway.
pub fn draw(image: &Rgb, config: &VitConfig, explanation: &Explanation) -> Rgb {
    let (rows, columns) = config.grid();
    let panel = panel_size(image, config.parts());
    let shown = preprocess::resize_bicubic(image, panel);
    let VitConfig { image, patch, stride, .. } = *config;
    let row_edges = edges(rows, patch, stride, image.height, panel.height);
    let column_edges = edges(columns, patch, stride, image.width, panel.width);

    let most = explanation.patches.iter().copied().fold(0.0, f64::max);
    let least = explanation.patches.iter().copied().fold(f64::INFINITY, f64::min).max(LEAST_SHOWN * most);
    let labels = [most, (most * least).sqrt(), least].map(|share| format!("{:.2}%", 100.0 * share));
    let label_width = labels.iter().map(|label| text_width(label, 2)).max().unwrap_or(0);
    let number_width = text_width(&config.parts().to_string(), 2);
    // From left to right.
    let heat = MARGIN + panel.width + MARGIN;
    let bar = heat + panel.width + SPACE;
    let label = bar + BAR + SPACE;
    let numbers = label + label_width + MARGIN;
    let parts = numbers + number_width + SPACE;
    let legend = panel.height.max(LEGEND);
    let size = ImageSize { height: MARGIN + legend + MARGIN, width: parts + panel.width + MARGIN };
    let mut canvas = Canvas::new(size);

    canvas.put(&shown, MARGIN, MARGIN);

    canvas.put(&shown, heat, MARGIN);
    canvas.paint(heat..heat + panel.width, MARGIN..MARGIN + panel.height, grey);
    for (row, shares) in explanation.patches.chunks(columns).enumerate() {
        for (column, share) in shares.iter().enumerate() {
            // A lone patch has nothing to stand out from.
            let colour = viridis((share / least).ln() / (most / least).ln().max(f64::MIN_POSITIVE));
            let xs = heat + column_edges[column]..heat + column_edges[column + 1];
            let ys = MARGIN + row_edges[row]..MARGIN + row_edges[row + 1];
            canvas.paint(xs, ys, |under| blend(under, colour, STRENGTH));
        }
    }

    for y in 0..legend {
        let value = 1.0 - (y as f64 + 0.5) / legend as f64;
        canvas.paint(bar..bar + BAR, MARGIN + y..MARGIN + y + 1, |_| viridis(value));
    }
    let below = legend - 2 * GLYPH.1;
    for (text, top) in labels.iter().zip([0, below / 2, below]) {
        canvas.write(text, label, MARGIN + top, 2);
    }

    canvas.put(&shown, parts, MARGIN);
    let end = column_edges.last().copied().unwrap_or(panel.width);
    let bounds: Vec<usize> = match config.parts() {
        1 => vec![0, row_edges.last().copied().unwrap_or(panel.height)],
        _ => row_edges,
    };
    outline(&mut canvas, parts, end, &bounds);
    number(&mut canvas, numbers, number_width, &bounds);
    canvas.0
}

/// The brightness of a colour (Rec. 601), as a grey.
fn grey(colour: Colour) -> Colour {
    let [red, green, blue] = colour.map(f64::from);
    [(0.299 * red + 0.587 * green + 0.114 * blue).round() as u8; 3]
}

/// Frames around the rows between `bounds`, `width` pixels wide: white beside black shows on any image.
fn outline(canvas: &mut Canvas, left: usize, width: usize, bounds: &[usize]) {
    let (top, bottom) = (MARGIN + bounds[0], MARGIN + bounds[bounds.len() - 1]);
    for (shift, colour) in [(0, WHITE), (1, BLACK)] {
        for bound in bounds {
            // The lowest line is the last row's own.
            let y = (MARGIN + bound).min(bottom.saturating_sub(2)) + shift;
            canvas.paint(left..left + width, y..y + 1, |_| colour);
        }
        for x in [left + shift, (left + width).saturating_sub(2) + shift] {
            canvas.paint(x..x + 1, top..bottom, |_| colour);
        }
    }
}

/// The numbers of the rows between `bounds`, from 1, to the right of a gutter; where rows are too low, not all of them.
fn number(canvas: &mut Canvas, left: usize, width: usize, bounds: &[usize]) {
    let (height, rows) = (bounds[bounds.len() - 1] - bounds[0], bounds.len() - 1);
    let scale = if height > 2 * GLYPH.1 * rows { 2 } else { 1 };
    let every = ((GLYPH.1 + 2) * rows).div_ceil(height.max(1));
    for (i, pair) in bounds.windows(2).enumerate().step_by(every) {
        let text = (i + 1).to_string();
        let x = left + width - text_width(&text, scale);
        let y = (MARGIN + (pair[0] + pair[1]) / 2).saturating_sub(scale * GLYPH.1 / 2);
        canvas.write(&text, x, y, scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(height: usize, width: usize) -> Rgb {
        Rgb { height, width, pixels: vec![128; 3 * height * width] }
    }

    #[test]
    fn a_panel_is_large_enough_to_be_read_and_no_larger_than_stated() {
        for (height, width, rows, wanted) in [
            (300, 400, 14, "300x400"),
            (128, 64, 14, "512x256"),
            (64, 128, 14, "256x512"),
            (256, 256, 40, "400x400"),
            (4000, 2000, 14, "1024x512"),
            (1000, 10, 14, "1024x10"),
            (1, 1, 1, "256x256"),
            (1, 16_384, 14, "1x1024"),
        ] {
            let found = panel_size(&blank(height, width), rows).to_string();
            assert_eq!(found, wanted, "{height}x{width}, {rows} rows");
        }
    }

    #[test]
    fn images_of_any_shape_are_drawn() {
        let image = ImageSize { height: 224, width: 112 };
        let config = VitConfig { mlp_hidden: 8, ..VitConfig::plain(image, 16, 8, 1, 1) };
        let mut rollout = vec![0.01; 99];
        // One patch got nothing, one much: both have a colour.
        (rollout[1], rollout[40]) = (0.0, 0.5);
        let explanation = Explanation::new(&config, &rollout).unwrap();
        for (height, width, wanted) in
            [(1, 1, 256), (1, 16_384, 60), (3000, 3, 1024), (128, 64, 512), (700, 300, 700)]
        {
            let drawing = draw(&blank(height, width), &config, &explanation);
            assert_eq!(drawing.height, MARGIN + wanted + MARGIN, "{height}x{width}");
            assert_eq!(drawing.pixels.len(), 3 * drawing.height * drawing.width);
        }
    }

    #[test]
    fn patches_tile_the_panel() {
        assert_eq!(edges(4, 8, 8, 32, 256), [0, 64, 128, 192, 256]);
        // Four pixels are behind the last patch.
        assert_eq!(edges(2, 16, 16, 36, 72), [0, 32, 64]);
        // Patches of 8 every 4 pixels: their centres are at 4, 8, 12.
        assert_eq!(edges(3, 8, 4, 16, 16), [0, 6, 10, 16]);
        assert_eq!(edges(1, 14, 14, 14, 5), [0, 5]);
    }

    #[test]
    fn colours_run_from_dark_blue_to_yellow_and_grow_brighter() {
        assert_eq!((viridis(0.0), viridis(1.0)), (VIRIDIS[0], VIRIDIS[9]));
        assert_eq!((viridis(-1.0), viridis(2.0)), (VIRIDIS[0], VIRIDIS[9]));
        let brightness: Vec<u8> = (0..=100).map(|i| grey(viridis(f64::from(i) / 100.0))[0]).collect();
        assert!(brightness.is_sorted(), "{brightness:?}");
    }

    #[test]
    fn every_character_is_another() {
        let drawn = |text: &str| {
            let mut canvas = Canvas::new(ImageSize { height: 14, width: 12 });
            canvas.write(text, 0, 0, 2);
            canvas.0.pixels
        };
        for (i, (one, _)) in GLYPHS.iter().enumerate() {
            for (other, _) in &GLYPHS[..i] {
                assert_ne!(drawn(&one.to_string()), drawn(&other.to_string()));
            }
        }
        assert_eq!(drawn("7").as_chunks::<3>().0.iter().filter(|&&pixel| pixel == BLACK).count(), 4 * 11);
    }
}
