//! Finds the hot loop in a disassembled AMD kernel, and counts its instructions.

/// Instructions in the body of a loop, without inner loops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loop {
    /// Multiply-adds: fused and packed ones, and each half of a dual one.
    pub multiply_adds: u32,
    /// Operations: instructions, and the second halves of dual ones, without hints to the scheduler.
    pub operations: u32,
    /// 32-bit words that a lane reads from workgroup memory.
    pub words_read: u32,
}

impl Loop {
    /// Share of multiply-adds in all operations, in percent.
    pub fn share(&self) -> f64 {
        100.0 * f64::from(self.multiply_adds) / f64::from(self.operations.max(1))
    }

    /// Words read from workgroup memory per multiply-add.
    pub fn words_per_multiply_add(&self) -> f64 {
        f64::from(self.words_read) / f64::from(self.multiply_adds.max(1))
    }
}

/// Name and operands of an instruction, or of both halves of a dual one.
fn operations(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let code = line.split(';').next().unwrap_or_default();
    code.split("::").map(|half| half.trim().split_once(char::is_whitespace).unwrap_or((half.trim(), "")))
}

/// Returns whether the sequencer handles an instruction without an issue slot of the compute units.
fn is_hint(name: &str) -> bool {
    matches!(name, "s_delay_alu" | "s_clause" | "s_nop")
}

fn is_multiply_add(name: &str) -> bool {
    let Some(name) = name.strip_prefix("v_") else { return false };
    let name = name.strip_prefix("dual_").or_else(|| name.strip_prefix("pk_")).unwrap_or(name);
    // Integer multiply-adds compute addresses, and are left out.
    [
        "fma_f", "fmac_f", "fmaak_f", "fmamk_f", "mad_f", "mac_f", "madak_f", "madmk_f", "fma_mix", "dot2",
        "wmma",
    ]
    .iter()
    .any(|head| name.starts_with(head))
}

/// 32-bit words that an instruction reads from workgroup memory for each lane.
fn words_read(name: &str) -> u32 {
    let Some(what) = name.strip_prefix("ds_read").or_else(|| name.strip_prefix("ds_load")) else { return 0 };
    let pairs = if what.starts_with('2') || what.contains("2addr") { 2 } else { 1 };
    let bits: u32 = what.rsplit_once("_b").and_then(|(_, bits)| bits.parse().ok()).unwrap_or(32);
    pairs * bits.div_ceil(32)
}

/// Assumed iterations of a loop per iteration of the surrounding one, as in Mesa's compiler.
const TURNS: u64 = 8;

/// The loop with the most multiply-adds in its own body, weighted by iterations; `None` if no loop has any.
pub fn hot_loop(assembly: &str) -> Option<Loop> {
    let lines: Vec<&str> = assembly.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let label = |name: &str| lines.iter().position(|line| line.strip_suffix(':') == Some(name));
    // First and last line of every loop: the target of a jump back, and the last jump to it.
    let mut loops: Vec<(usize, usize)> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((name, operands)) = operations(line).next() else { continue };
        if !(name.starts_with("s_branch") || name.starts_with("s_cbranch")) {
            continue;
        }
        if let Some(start) = label(operands.trim()).filter(|&start| start <= at) {
            match loops.iter_mut().find(|(first, _)| *first == start) {
                Some((_, end)) => *end = (*end).max(at),
                None => loops.push((start, at)),
            }
        }
    }

    let holds = |outer: &(usize, usize), inner: &(usize, usize)| {
        outer != inner && outer.0 <= inner.0 && inner.1 <= outer.1
    };
    let own = |this: &(usize, usize)| {
        let inner: Vec<_> = loops.iter().filter(|other| holds(this, other)).collect();
        let mut counted = Loop::default();
        for (at, line) in lines.iter().enumerate().take(this.1 + 1).skip(this.0) {
            if line.ends_with(':') || inner.iter().any(|(first, last)| (*first..=*last).contains(&at)) {
                continue;
            }
            for (name, _) in operations(line) {
                counted.operations += u32::from(!name.is_empty() && !is_hint(name));
                counted.multiply_adds += u32::from(is_multiply_add(name));
                counted.words_read += words_read(name);
            }
        }
        let depth = loops.iter().filter(|other| holds(other, this)).count() as u32;
        (counted, u64::from(counted.multiply_adds) * TURNS.pow(depth))
    };
    let counted = loops.iter().map(own).filter(|(counted, _)| counted.multiply_adds > 0);
    counted.max_by_key(|(_, spent)| *spent).map(|(counted, _)| counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_loop_is_the_one_that_multiplies() {
        let assembly = "BB0:
            v_fmac_f32_e32 v1, v2, v3 ; outside of any loop
        BB1:
            s_cbranch_scc1 BB9 ; be80
        BB2:
            ds_write_b128 v1, v[2:5]
            s_cbranch_scc0 BB2
            ds_read_b128 v[2:5], v1 offset:16
            ds_load_2addr_b64 v[2:5], v1
            ds_read2st64_b32 v[2:3], v1
            s_delay_alu instid0(VALU_DEP_1)
            v_dual_fmac_f32 v1, v2, v3 :: v_dual_mov_b32 v4, v5
            v_pk_fma_f16 v1, v2, v3, v1
            v_mad_u32_u24 v1, v2, v3, v4
            v_fma_f32 v1, v2, v3, v4
            s_branch BB1 ; bf82
        BB9:
            s_endpgm";
        // The outer loop has cbranch, three reads, two halves, packed, integer, fused, branch.
        assert_eq!(hot_loop(assembly), Some(Loop { multiply_adds: 3, operations: 10, words_read: 10 }));
    }

    #[test]
    fn an_inner_loop_weighs_more_than_an_outer_one() {
        let assembly = "BB0:\nv_fma_f32 v1, v2\nv_fma_f32 v1, v2\nBB1:\nv_fma_f32 v1, v2\ns_cbranch_scc0 BB1\ns_branch BB0";
        assert_eq!(hot_loop(assembly), Some(Loop { multiply_adds: 1, operations: 2, words_read: 0 }));
    }

    #[test]
    fn code_without_a_multiplying_loop_has_no_hot_loop() {
        assert_eq!(hot_loop("BB0:\n\tv_fma_f32 v1, v2, v3, v4\n\ts_endpgm"), None);
        assert_eq!(hot_loop("BB0:\n\tv_mov_b32 v1, v2\n\ts_cbranch_scc0 BB0\n\ts_endpgm"), None);
    }
}
