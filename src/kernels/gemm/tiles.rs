//! The table of tiles for each class of adapter, read from `tiles.toml`. A lab run can rewrite that file.

use super::{Form, Tile};
use crate::error::{Error, Result};
use crate::gpu::{AdapterClass, Storage};
use serde::Deserialize;
use std::fmt::Write;
use std::sync::LazyLock;

const TEXT: &str = include_str!("tiles.toml");

/// The comment at the beginning of the file.
fn header() -> impl Iterator<Item = &'static str> {
    TEXT.lines().take_while(|line| line.starts_with('#'))
}

static TABLE: LazyLock<Table> =
    LazyLock::new(|| Table::parse(TEXT).unwrap_or_else(|error| unreachable!("tiles.toml: {error}")));

/// The tiles of every class of adapter.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    cpu: Tiles,
    integrated: Tiles,
    discrete: Tiles,
}

/// The tiles of one class of adapter.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tiles {
    /// Division of weight gradients along k.
    pub slices: SliceRule,
    /// The tile for products of up to 16 rows.
    pub skinny: Tile,
    /// Tiles in order of preference: the first with enough workgroups is used, otherwise the last.
    pub built_in: Vec<Step>,
    /// Further candidates for tuning and for the lab.
    pub menu: Vec<Tile>,
    /// The tiles that a lab run found fastest.
    pub winners: Vec<Winner>,
}

/// Division of weight gradients along k.
///
/// The slices take at most 16 KiB · `tiles` of memory, plus their column sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceRule {
    /// Tiles of 64 × 64 outputs to keep busy at once, each with 64 invocations of 8 × 8.
    pub tiles: usize,
    /// Smallest k per slice, if there is more than one.
    pub depth: usize,
    /// Largest number of slices.
    pub most: usize,
}

/// A tile of the built-in choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The tile.
    pub tile: Tile,
    /// Smallest number of workgroups for which it is used.
    pub workgroups: usize,
}

/// The tile that a lab run found fastest for a layer's product, for any batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Winner {
    /// Form of the product.
    pub form: Form,
    /// [`Form::layer`] of the product.
    pub sizes: [usize; 2],
    /// Storage of its operands.
    pub storage: Storage,
    /// The tile.
    pub tile: Tile,
}

impl Table {
    /// The table that was compiled into the program.
    pub fn built_in() -> &'static Table {
        &TABLE
    }

    /// Parses the text of a table.
    ///
    /// # Errors
    /// [`Error::Data`] with the position of the first mistake.
    pub fn parse(text: &str) -> Result<Table> {
        let table: Table = toml::from_str(text).map_err(|error| Error::Data(error.to_string()))?;
        for (name, tiles) in table.classes() {
            if tiles.built_in.is_empty() {
                return Err(Error::Data(format!("{name}: no built-in tile")));
            }
        }
        Ok(table)
    }

    fn classes(&self) -> [(&'static str, &Tiles); 3] {
        [("cpu", &self.cpu), ("integrated", &self.integrated), ("discrete", &self.discrete)]
    }

    /// The tiles of a class of adapter.
    pub fn of(&self, class: AdapterClass) -> &Tiles {
        match class {
            AdapterClass::Cpu => &self.cpu,
            AdapterClass::Integrated => &self.integrated,
            AdapterClass::Discrete => &self.discrete,
        }
    }

    /// Returns the table with winners added to a class. They replace those with the same form, sizes and storage.
    pub fn with_winners(&self, class: AdapterClass, winners: &[Winner]) -> Table {
        let mut table = self.clone();
        let tiles = match class {
            AdapterClass::Cpu => &mut table.cpu,
            AdapterClass::Integrated => &mut table.integrated,
            AdapterClass::Discrete => &mut table.discrete,
        };
        for winner in winners {
            let same = |other: &Winner| {
                (other.form, other.sizes, other.storage) == (winner.form, winner.sizes, winner.storage)
            };
            tiles.winners.retain(|other| !same(other));
            tiles.winners.push(*winner);
        }
        table
    }

    /// The text that [`Table::parse`] parses to this table.
    pub fn text(&self) -> String {
        let mut text: String = header().flat_map(|line| [line, "\n"]).collect();
        for (name, Tiles { slices, skinny, built_in, menu, winners }) in self.classes() {
            let SliceRule { tiles, depth, most } = slices;
            // Writing to a string doesn't fail.
            let _ = writeln!(
                text,
                "\n[{name}]\nslices = {{ tiles = {tiles}, depth = {depth}, most = {most} }}\nskinny = \"{skinny}\""
            );
            let built_in = built_in.iter().map(|Step { tile, workgroups }| {
                format!("{{ tile = \"{tile}\", workgroups = {workgroups} }}")
            });
            list(&mut text, "built_in", built_in);
            list(&mut text, "menu", menu.iter().map(|tile| format!("\"{tile}\"")));
            let winners = winners.iter().map(|Winner { form, sizes, storage, tile }| {
                let (form, storage) = (format!("{form:?}"), format!("{storage:?}"));
                let (form, storage) = (form.to_lowercase(), storage.to_lowercase());
                format!(
                    "{{ form = \"{form}\", sizes = {sizes:?}, storage = \"{storage}\", tile = \"{tile}\" }}"
                )
            });
            list(&mut text, "winners", winners);
        }
        text
    }
}

/// Appends a list with one item per line.
fn list(text: &mut String, name: &str, items: impl Iterator<Item = String>) {
    let items: String = items.map(|item| format!("    {item},\n")).collect();
    let open = if items.is_empty() { "" } else { "\n" };
    // Writing to a string doesn't fail.
    let _ = writeln!(text, "{name} = [{open}{items}]");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_as_it_is_written() {
        assert_eq!(Table::built_in().text(), TEXT);
        let winner = |k, rows| Winner {
            form: Form::Nn,
            sizes: [384, k],
            storage: Storage::Packed,
            tile: Tile::Subgroup { lanes: 8, rows, quads: 2 },
        };
        let before = Table::built_in().with_winners(AdapterClass::Discrete, &[winner(768, 32)]);
        let after = before.with_winners(AdapterClass::Discrete, &[winner(768, 16), winner(1536, 8)]);
        assert_eq!(after.of(AdapterClass::Discrete).winners, [winner(768, 16), winner(1536, 8)]);
        assert_eq!(Table::parse(&after.text()).unwrap(), after);
        assert_eq!(after.of(AdapterClass::Cpu), Table::built_in().of(AdapterClass::Cpu));
    }

    #[test]
    fn wrong_files_are_refused() {
        for (right, wrong) in [
            ("tiled 128x128 by 8x8", "tiled 128x128 by 8x4"),
            ("tiled 128x128 by 8x8", "tiled 128x128"),
            ("skinny = ", "slim = "),
            ("depth = 512", "depth = -1"),
        ] {
            assert!(TEXT.contains(right), "{right}");
            assert!(Table::parse(&TEXT.replacen(right, wrong, 1)).is_err(), "{wrong}");
        }
    }
}
