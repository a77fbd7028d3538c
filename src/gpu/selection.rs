//! The selection of kernels for an adapter, by its class and features.

use super::adapter::{AdapterSummary, F16, MatrixUnit, SUBGROUPS};
use super::class::AdapterClass;
use super::options::{ContextOptions, Precision};
use super::tuning;

/// The kernel family of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Tiles in workgroup memory and registers: GPUs, and adapters without a fixed subgroup size.
    Tiled,
    /// One subgroup of this many lanes per workgroup, without barriers: CPU adapters.
    Subgroup(u32),
}

impl Family {
    /// Returns the number of lanes that share a row in row-wise kernels: few where a barrier is expensive.
    pub fn row_lanes(self) -> u32 {
        match self {
            Family::Subgroup(lanes) => lanes,
            Family::Tiled => 64,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Family::Tiled => write!(f, "workgroup tiles"),
            Family::Subgroup(lanes) => write!(f, "subgroups of {lanes}"),
        }
    }
}

/// The fragments that an adapter's matrix units multiply, with f16 operands and f32 sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fragments {
    /// Side of a fragment, 16 or 8.
    pub side: u32,
    /// Lanes of the adapter's largest subgroup, which multiplies a fragment together.
    pub lanes: u32,
}

impl std::fmt::Display for Fragments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{0}x{0}", self.side)
    }
}

/// The kernels for a kind of work in a precision, and the reason for the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelChoice {
    /// "products", "attention", "patch embedding" or "row-wise".
    pub kernels: &'static str,
    /// Precision of weights and activations.
    pub precision: Precision,
    /// The [`Family`] in words, or the fragments of the matrix units.
    pub family: String,
    /// The reason for the choice.
    pub reason: String,
}

impl AdapterSummary {
    /// Returns the adapter's family with or without optional features, and the reason.
    pub(super) fn family(&self, features: bool) -> (Family, String) {
        let (least, most) = self.subgroup;
        let tiled = |reason: &str| (Family::Tiled, reason.to_string());
        if self.class != AdapterClass::Cpu {
            return tiled("not a CPU adapter");
        }
        if !features {
            return tiled("without optional features");
        }
        // Shaders for a fixed number of lanes need every subgroup to have exactly that many.
        if !self.has(SUBGROUPS) || least != most || !matches!(least, 4 | 8 | 16) {
            return tiled("CPU adapter without a fixed subgroup of 4, 8 or 16");
        }
        (Family::Subgroup(least), format!("CPU adapter with a fixed subgroup of {least}"))
    }

    /// Returns the fragments of its matrix units; else the reason why it has no such units.
    pub(super) fn fragments(&self) -> Result<Fragments, &'static str> {
        if self.matrix_units.is_empty() {
            return Err("no matrix units");
        }
        if !self.has(SUBGROUPS) || !self.has(F16) {
            return Err("matrix units without f16 or subgroups in shaders");
        }
        if !matches!(self.subgroup.1, 8 | 16 | 32 | 64) {
            return Err("matrix units, but subgroups of other than 8, 16, 32 or 64 lanes");
        }
        if self.max_workgroup_bytes < 32 * 1024 || self.max_invocations < 512 {
            return Err("matrix units, but workgroups below 32 KiB or 512 invocations");
        }
        let fits = |side| MatrixUnit { m: side, n: side, k: side, operands: "f16", sums: "f32" };
        let found = [16, 8].into_iter().find(|&side| self.matrix_units.contains(&fits(side)));
        let found = found.map(|side| Fragments { side, lanes: self.subgroup.1 });
        found.ok_or("no configuration of 16x16x16 or 8x8x8 with f16 operands and f32 sums")
    }

    /// Returns the kernels that a context opened with `options` uses, and the reasons.
    pub fn kernels(&self, options: &ContextOptions) -> Vec<KernelChoice> {
        let features = !options.default_limits && !options.portable;
        let (family, why) = self.family(features);
        let tuned = if options.tuned && features { tuning::load(self).len() } else { 0 };
        let mut chosen = Vec::new();
        for precision in [Precision::F32, Precision::F16] {
            let storage = match precision {
                Precision::F32 => "",
                Precision::F16 if features && self.has(F16) => "; f16 in shaders",
                Precision::F16 => "; f16 packed in u32",
            };
            let units = match precision {
                Precision::F32 => None,
                Precision::F16 if !features => Some(Err("matrix units are an optional feature")),
                Precision::F16 if !options.matrix_units => Some(Err("LAT_MATRIX_UNITS=0")),
                Precision::F16 => Some(self.fragments()),
            };
            let tuned = if tuned > 0 { format!("; {tuned} tiles chosen by autotune") } else { String::new() };
            let mut add = |kernels, family: String, reason: String| {
                chosen.push(KernelChoice { kernels, precision, family, reason });
            };
            match units {
                Some(Ok(units)) => add(
                    "products",
                    format!("matrix units of {units}"),
                    format!(
                        "{units}x{side} with f16 operands and f32 sums; {family} if validation fails{tuned}",
                        side = units.side
                    ),
                ),
                Some(Err(none)) => {
                    add("products", family.to_string(), format!("{why}; {none}{storage}{tuned}"))
                }
                None => add("products", family.to_string(), format!("{why}{tuned}")),
            }
            match units {
                Some(Ok(units)) => add(
                    "attention",
                    format!("matrix units of {units}"),
                    format!(
                        "for heads of 32, 64, 80 and 128; {family} for others and if validation fails{storage}"
                    ),
                ),
                _ => add("attention", family.to_string(), format!("{why}{storage}")),
            }
            add("patch embedding", family.to_string(), format!("{why}{storage}"));
            add("row-wise", format!("{} lanes per row", family.row_lanes()), format!("{why}{storage}"));
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::super::adapter::tests::summary;
    use super::*;

    fn options() -> ContextOptions {
        ContextOptions { matrix_units: true, ..ContextOptions::default() }
    }

    fn products(
        summary: &AdapterSummary,
        options: &ContextOptions,
        precision: Precision,
    ) -> (String, String) {
        let found = summary.kernels(options).into_iter();
        let mut found = found.filter(|choice| (choice.kernels, choice.precision) == ("products", precision));
        let KernelChoice { family, reason, .. } = found.next().unwrap();
        (family, reason)
    }

    #[test]
    fn kernels_are_chosen_for_a_reason() {
        let cpu = summary(AdapterClass::Cpu, (8, 8));
        let (family, reason) = products(&cpu, &options(), Precision::F32);
        assert_eq!(
            (family.as_str(), reason.as_str()),
            ("subgroups of 8", "CPU adapter with a fixed subgroup of 8")
        );
        for (odd, features) in [(summary(AdapterClass::Cpu, (4, 8)), true), (cpu.clone(), false)] {
            let options = ContextOptions { default_limits: !features, ..options() };
            assert_eq!(products(&odd, &options, Precision::F32).0, "workgroup tiles");
        }

        let mut card = summary(AdapterClass::Discrete, (32, 32));
        (card.max_workgroup_bytes, card.max_invocations) = (32 * 1024, 1024);
        let unit = MatrixUnit { m: 16, n: 16, k: 16, operands: "f16", sums: "f16" };
        for (units, side, reason) in [
            (vec![], None, "no matrix units"),
            (vec![unit], None, "no configuration of 16x16x16 or 8x8x8"),
            (vec![unit, MatrixUnit { k: 8, sums: "f32", ..unit }], None, "no configuration"),
            (vec![unit, MatrixUnit { sums: "f32", ..unit }], Some(16), "if validation fails"),
        ] {
            card.matrix_units = units;
            let (family, found) = products(&card, &options(), Precision::F16);
            let wanted =
                side.map_or("workgroup tiles".to_string(), |side| format!("matrix units of {side}x{side}"));
            assert_eq!(family, wanted);
            assert!(found.contains(reason), "{found}");
            assert_eq!(products(&card, &options(), Precision::F32).0, "workgroup tiles");
        }
        let small = AdapterSummary { max_invocations: 256, ..card.clone() };
        assert!(products(&small, &options(), Precision::F16).1.contains("below 32 KiB or 512 invocations"));
        let wide = AdapterSummary { subgroup: (32, 128), ..card.clone() };
        assert!(products(&wide, &options(), Precision::F16).1.contains("other than 8, 16, 32 or 64 lanes"));
        let off = ContextOptions { matrix_units: false, ..options() };
        assert!(products(&card, &off, Precision::F16).1.contains("LAT_MATRIX_UNITS=0"));
    }
}
