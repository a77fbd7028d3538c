//! Panels side by side: an image, its attention rollout as a heat map and its parts; or a query and a match with the
//! agreement of their parts.

use super::Explanation;
use super::lettering::{self, width};
use crate::images::decode::Rgb;
use crate::images::preprocess;
use crate::shape::{ImageSize, VitConfig};

/// Pixels of a panel's shorter side, at least.
const SHORTEST_SIDE: f64 = 256.0;
/// Pixels of a part's height, at least: room for a digit.
const ROW_HEIGHT: f64 = 10.0;
/// Pixels of a panel's longer side, at most. This limit takes precedence.
const LONGEST_SIDE: f64 = 1024.0;

/// Around the panels.
const MARGIN: usize = 12;
/// Between a panel and its legend or numbers.
const SPACE: usize = 6;
/// Height of capitals, and the least one.
const TEXT: usize = 13;
const SMALL_TEXT: usize = 7;
/// Top of the panels, below their titles.
const TOP: usize = MARGIN + TEXT + 10;
/// Width of the legend's bar of colours.
const BAR: usize = 14;
/// Least height of the legend: room for three labels.
const LEGEND: usize = 60;

/// Share of a heat map's colour in a pixel; the rest is the image in grey.
const STRENGTH: f64 = 0.7;
/// The same of the overlay of parts.
const OVERLAY: f64 = 0.45;
/// The least share with a colour of its own, as a part of the largest share.
const LEAST_SHOWN: f64 = 1e-3;

type Colour = [u8; 3];

const BLACK: Colour = [0; 3];
const WHITE: Colour = [255; 3];

/// Ten equidistant colours of viridis, a map whose steps look equally large (Stéfan van der Walt and Nathaniel Smith
/// 2015, matplotlib's default, CC0): dark blue to yellow.
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

/// An image to draw on.
struct Canvas(Rgb);

impl Canvas {
    fn new(size: ImageSize) -> Canvas {
        let ImageSize { height, width } = size;
        Canvas(Rgb { height, width, pixels: vec![255; 3 * height * width] })
    }

    /// A pixel; `None` outside.
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

    /// Copies an image with its upper left corner there.
    fn put(&mut self, image: &Rgb, left: usize, top: usize) {
        for (i, &colour) in image.pixels.as_chunks::<3>().0.iter().enumerate() {
            if let Some(pixel) = self.pixel(left + i % image.width, top + i / image.width) {
                *pixel = colour;
            }
        }
    }

    /// Writes text with its upper left corner there.
    fn write(&mut self, text: &str, left: usize, top: usize, height: usize) {
        lettering::write(&mut self.0, text, left, top, height);
    }
}

/// The size of a panel: the image's own, enlarged or reduced.
fn panel_size(image: &Rgb, rows: usize) -> ImageSize {
    let (height, width) = (image.height as f64, image.width as f64);
    let least = SHORTEST_SIDE / height.min(width);
    let readable = ROW_HEIGHT * rows as f64 / height;
    let factor = 1f64.max(least).max(readable).min(LONGEST_SIDE / height.max(width));
    let scaled = |side: f64| ((side * factor).round() as usize).max(1);
    ImageSize { height: scaled(height), width: scaled(width) }
}

/// Edges of the patches along one axis, in pixels of a panel: one more than there are patches.
///
/// Patches that overlap meet halfway; pixels behind the last one are ignored.
fn edges(count: usize, patch: usize, stride: usize, input: usize, panel: usize) -> Vec<usize> {
    let overlap = (patch as f64 - stride as f64) / 2.0;
    let edge = |i: usize| match i {
        0 => 0.0,
        i if i == count => ((count - 1) * stride + patch) as f64,
        i => (i * stride) as f64 + overlap,
    };
    (0..=count).map(|i| (edge(i) * panel as f64 / input as f64).round() as usize).collect()
}

/// Draws an image of any size, its attention rollout and its parts.
///
/// The panels keep the image's shape, although the network sees it stretched to its input size. Colours go from the
/// least to the largest share of a patch on a logarithmic scale, since a single patch often has many times as much as
/// most others. The legend names both and their geometric mean.
pub fn draw(image: &Rgb, config: &VitConfig, explanation: &Explanation) -> Rgb {
    let columns = config.grid().1;
    let panel = panel_size(image, config.parts());
    let shown = preprocess::resize_bicubic(image, panel);
    let (row_edges, column_edges) = grid(config, panel);

    let most = explanation.patches.iter().copied().fold(0.0, f64::max);
    let least = explanation.patches.iter().copied().fold(f64::INFINITY, f64::min).max(LEAST_SHOWN * most);
    let labels = [most, (most * least).sqrt(), least].map(|share| format!("{:.2}%", 100.0 * share));
    let label_width = labels.iter().map(|label| width(label, TEXT)).max().unwrap_or(0);
    let number_width = width(&config.parts().to_string(), TEXT);
    // From left to right.
    let [first, second, third] =
        ["Image", "Attention rollout", "Parts"].map(|title| panel.width.max(width(title, TEXT)));
    let heat = MARGIN + first + MARGIN;
    let bar = heat + panel.width + SPACE;
    let label = bar + BAR + SPACE;
    let numbers = (label + label_width).max(heat + second) + MARGIN;
    let parts = numbers + number_width + SPACE;
    let legend = panel.height.max(LEGEND);
    let size = ImageSize { height: TOP + legend + MARGIN, width: parts + third + MARGIN };
    let mut canvas = Canvas::new(size);

    canvas.write("Image", MARGIN, MARGIN, TEXT);
    canvas.put(&shown, MARGIN, TOP);

    canvas.write("Attention rollout", heat, MARGIN, TEXT);
    canvas.put(&shown, heat, TOP);
    canvas.paint(heat..heat + panel.width, TOP..TOP + panel.height, grey);
    for (row, shares) in explanation.patches.chunks(columns).enumerate() {
        for (column, share) in shares.iter().enumerate() {
            // A single patch has no range of colours.
            let colour = viridis((share / least).ln() / (most / least).ln().max(f64::MIN_POSITIVE));
            let xs = heat + column_edges[column]..heat + column_edges[column + 1];
            let ys = TOP + row_edges[row]..TOP + row_edges[row + 1];
            canvas.paint(xs, ys, |under| blend(under, colour, STRENGTH));
        }
    }
    draw_legend(&mut canvas, (bar, label), legend, &labels);

    canvas.write("Parts", parts, MARGIN, TEXT);
    canvas.put(&shown, parts, TOP);
    let end = column_edges.last().copied().unwrap_or(panel.width);
    let bounds = part_edges(config, &row_edges);
    outline(&mut canvas, parts, end, &bounds);
    let names: Vec<String> = (1..bounds.len()).map(|part| part.to_string()).collect();
    name_parts(&mut canvas, numbers, number_width, &bounds, &names);
    canvas.0
}

/// Draws a query and a match with their parts coloured by agreement: the cosine of the two part embeddings, which is
/// written between the two images.
///
/// Colours go from the least to the largest cosine; the legend names both.
///
/// # Panics
/// If `agreement` doesn't have a value per part.
pub fn draw_against(query: &Rgb, found: &Rgb, config: &VitConfig, agreement: &[f64]) -> Rgb {
    assert_eq!(agreement.len(), config.parts(), "a value per part");
    let panel = panel_size(query, config.parts());
    // As high as the query, so that rows are beside each other.
    let ratio = found.width as f64 / found.height as f64;
    let other_width = ((panel.height as f64 * ratio).round() as usize).clamp(1, LONGEST_SIDE as usize);
    let other = ImageSize { height: panel.height, width: other_width };
    let most = agreement.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = agreement.iter().copied().fold(f64::INFINITY, f64::min);
    // Two digits more than the range needs.
    let decimals = (1.0 - (most - least).log10().floor()).clamp(2.0, 5.0) as usize;
    let text = |cosine: f64| format!("{cosine:.decimals$}");
    let values: Vec<String> = agreement.iter().copied().map(text).collect();
    let labels = [most, (most + least) / 2.0, least].map(text);
    let widest = |texts: &[String]| texts.iter().map(|text| width(text, TEXT)).max().unwrap_or(0);
    let value_width = widest(&values).max(width("Agreement", TEXT));
    // From left to right.
    let between = MARGIN + panel.width.max(width("Query", TEXT)) + MARGIN;
    let right = between + value_width + MARGIN;
    let bar = right + other.width.max(width("Match", TEXT)) + MARGIN;
    let label = bar + BAR + SPACE;
    let legend = panel.height.max(LEGEND);
    let mut canvas =
        Canvas::new(ImageSize { height: TOP + legend + MARGIN, width: label + widest(&labels) + MARGIN });

    canvas.write("Agreement", between, MARGIN, TEXT);
    for (image, size, left, title) in [(query, panel, MARGIN, "Query"), (found, other, right, "Match")] {
        canvas.write(title, left, MARGIN, TEXT);
        canvas.put(&preprocess::resize_bicubic(image, size), left, TOP);
        let (row_edges, column_edges) = grid(config, size);
        let end = column_edges.last().copied().unwrap_or(size.width);
        let bounds = part_edges(config, &row_edges);
        for (pair, cosine) in bounds.windows(2).zip(agreement) {
            // Equal values have no range of colours.
            let colour = viridis((cosine - least) / (most - least).max(f64::MIN_POSITIVE));
            canvas.paint(left..left + end, TOP + pair[0]..TOP + pair[1], |under| {
                blend(grey(under), colour, OVERLAY)
            });
        }
        outline(&mut canvas, left, end, &bounds);
        if title == "Query" {
            name_parts(&mut canvas, between, value_width, &bounds, &values);
        }
    }
    draw_legend(&mut canvas, (bar, label), legend, &labels);
    canvas.0
}

/// Edges of the rows and columns of patches in a panel.
fn grid(config: &VitConfig, panel: ImageSize) -> (Vec<usize>, Vec<usize>) {
    let (rows, columns) = config.grid();
    let VitConfig { image, patch, stride, .. } = *config;
    let rows = edges(rows, patch, stride, image.height, panel.height);
    (rows, edges(columns, patch, stride, image.width, panel.width))
}

/// Edges of the parts, given those of the rows of patches. Parts that share a row meet inside of it.
fn part_edges(config: &VitConfig, rows: &[usize]) -> Vec<usize> {
    let (parts, count) = (config.parts(), rows.len() - 1);
    let edge = |part: usize| {
        let (row, rest) = (part * count / parts, part * count % parts);
        rows[row] + (rows[(row + 1).min(count)] - rows[row]) * rest / parts
    };
    (0..=parts).map(edge).collect()
}

/// The bar of colours with the labels of its top, middle and bottom.
fn draw_legend(canvas: &mut Canvas, (bar, label): (usize, usize), height: usize, labels: &[String; 3]) {
    for y in 0..height {
        let value = 1.0 - (y as f64 + 0.5) / height as f64;
        canvas.paint(bar..bar + BAR, TOP + y..TOP + y + 1, |_| viridis(value));
    }
    let below = height - TEXT;
    for (text, top) in labels.iter().zip([0, below / 2, below]) {
        canvas.write(text, label, TOP + top, TEXT);
    }
}

/// The brightness of a colour (Rec. 601), as a grey.
fn grey(colour: Colour) -> Colour {
    let [red, green, blue] = colour.map(f64::from);
    [(0.299 * red + 0.587 * green + 0.114 * blue).round() as u8; 3]
}

/// Frames around the rows between `bounds`, `width` pixels wide: a white and a black line are visible on any image.
fn outline(canvas: &mut Canvas, left: usize, width: usize, bounds: &[usize]) {
    let (top, bottom) = (TOP + bounds[0], TOP + bounds[bounds.len() - 1]);
    for (shift, colour) in [(0, WHITE), (1, BLACK)] {
        for bound in bounds {
            // The lowest line is inside the last row.
            let y = (TOP + bound).min(bottom.saturating_sub(2)) + shift;
            canvas.paint(left..left + width, y..y + 1, |_| colour);
        }
        for x in [left + shift, (left + width).saturating_sub(2) + shift] {
            canvas.paint(x..x + 1, top..bottom, |_| colour);
        }
    }
}

/// Texts beside the rows between `bounds`, aligned to the right; if the rows are low, only some of them.
fn name_parts(canvas: &mut Canvas, left: usize, room: usize, bounds: &[usize], texts: &[String]) {
    let (height, rows) = (bounds[bounds.len() - 1] - bounds[0], bounds.len() - 1);
    let size = (height * 2 / 3 / rows).clamp(SMALL_TEXT, TEXT);
    let every = ((size + 3) * rows).div_ceil(height.max(1));
    for (text, pair) in texts.iter().zip(bounds.windows(2)).step_by(every) {
        let x = left + room.saturating_sub(width(text, size));
        let y = (TOP + (pair[0] + pair[1]) / 2).saturating_sub(size / 2);
        canvas.write(text, x, y, size);
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
            let image = blank(height, width);
            let agreement = vec![0.5; config.parts()];
            for drawing in [
                draw(&image, &config, &explanation),
                draw_against(&image, &image, &config, &agreement),
                draw_against(&image, &blank(64, 48), &config, &agreement),
            ] {
                assert_eq!(drawing.height, TOP + wanted + MARGIN, "{height}x{width}");
                assert_eq!(drawing.pixels.len(), 3 * drawing.height * drawing.width);
            }
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
    fn parts_that_agree_are_brighter_than_others() {
        let image = ImageSize { height: 64, width: 32 };
        let config = VitConfig { mlp_hidden: 8, ..VitConfig::plain(image, 16, 8, 1, 1) };
        let drawing = draw_against(&blank(64, 32), &blank(64, 32), &config, &[0.1, 0.9, 0.5, 0.3]);
        // The middle of each part of the query, 128 pixels high.
        let at = |part: usize| {
            let place = (TOP + 128 * part + 64) * drawing.width + MARGIN + 128;
            grey(drawing.pixels.as_chunks::<3>().0[place])[0]
        };
        assert!(at(0) < at(3) && at(3) < at(2) && at(2) < at(1), "{:?}", [at(0), at(1), at(2), at(3)]);
    }
}
