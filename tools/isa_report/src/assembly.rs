//! Finds the hot loop in a disassembled AMD kernel, and counts its instructions, or its cycles if it multiplies
//! fragments.

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
    ["fma_f", "fmac_f", "fmaak_f", "fmamk_f", "mad_f", "mac_f", "madak_f", "madmk_f", "fma_mix", "dot2"]
        .iter()
        .any(|head| name.starts_with(head))
}

/// 32-bit words that an instruction reads from workgroup memory for each lane.
fn words_read(name: &str) -> u32 {
    let reads = name.starts_with("ds_read") || name.starts_with("ds_load");
    if reads { words_moved(name) } else { 0 }
}

/// 32-bit words that an instruction of workgroup memory moves for each lane.
fn words_moved(name: &str) -> u32 {
    let pairs = if ["read2", "write2", "2addr"].iter().any(|part| name.contains(part)) { 2 } else { 1 };
    let bits: u32 = name.rsplit_once("_b").and_then(|(_, bits)| bits.parse().ok()).unwrap_or(32);
    pairs * bits.div_ceil(32)
}

/// Assumed iterations of a loop per iteration of the surrounding one, as in Mesa's compiler.
const TURNS: u64 = 8;

/// First and last line of a loop.
type Span = (usize, usize);

/// The code's lines, and every loop in them: from the target of a jump back to the last jump to it.
fn lines_and_loops(assembly: &str) -> (Vec<&str>, Vec<Span>) {
    let lines: Vec<&str> = assembly.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let label = |name: &str| lines.iter().position(|line| line.strip_suffix(':') == Some(name));
    let mut loops: Vec<Span> = Vec::new();
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
    (lines, loops)
}

/// Returns whether `inner` is a loop inside `outer`.
fn holds(outer: &Span, inner: &Span) -> bool {
    outer != inner && outer.0 <= inner.0 && inner.1 <= outer.1
}

/// The number of loops around this one.
fn depth(loops: &[Span], this: &Span) -> u32 {
    loops.iter().filter(|other| holds(other, this)).count() as u32
}

/// The loop with the most multiply-adds in its own body, weighted by iterations; `None` if no loop has any.
pub fn hot_loop(assembly: &str) -> Option<Loop> {
    let (lines, loops) = lines_and_loops(assembly);
    let own = |this: &Span| {
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
        (counted, u64::from(counted.multiply_adds) * TURNS.pow(depth(&loops, this)))
    };
    let counted = loops.iter().map(own).filter(|(counted, _)| counted.multiply_adds > 0);
    counted.max_by_key(|(_, spent)| *spent).map(|(counted, _)| counted)
}

/// Modelled cycles that a wave takes in a loop and its inner loops, one instruction after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cycles {
    /// Matrix instructions.
    pub matrix: u64,
    /// Other vector arithmetic.
    pub vector: u64,
    /// Workgroup memory.
    pub shared: u64,
    /// Everything else: scalar instructions, access to buffers, jumps, barriers.
    pub other: u64,
}

impl Cycles {
    /// The cycles of one instruction. Unknown names count as vector arithmetic: Mesa emits some that the disassembler
    /// doesn't know.
    fn of(name: &str, lanes: u64) -> Cycles {
        let mut cycles = Cycles::default();
        if name.starts_with("v_wmma") {
            cycles.matrix = if name.ends_with("iu4") { 16 } else { 32 };
        } else if name.starts_with("ds_") {
            cycles.shared = (4 * u64::from(words_moved(name)) * lanes).div_ceil(128);
        } else if name.starts_with("s_waitcnt") || is_hint(name) {
            // No cycles: another wave uses the unit meanwhile.
        } else if ["s_", "buffer_", "global_", "flat_", "scratch_"].iter().any(|head| name.starts_with(head))
        {
            cycles.other = 1;
        } else {
            cycles.vector = lanes.div_ceil(32) * if is_quarter_rate(name) { 4 } else { 1 };
        }
        cycles
    }

    fn add(&mut self, more: Cycles, times: u64) {
        self.matrix += times * more.matrix;
        self.vector += times * more.vector;
        self.shared += times * more.shared;
        self.other += times * more.other;
    }

    /// Share of matrix instructions, in percent.
    pub fn share(&self) -> f64 {
        let all = self.matrix + self.vector + self.shared + self.other;
        100.0 * self.matrix as f64 / all.max(1) as f64
    }
}

/// Returns whether a vector instruction takes four times as long as most.
fn is_quarter_rate(name: &str) -> bool {
    [
        "exp_",
        "log_",
        "rcp_",
        "rsq_",
        "sqrt_",
        "sin_",
        "cos_",
        "mul_lo_u32",
        "mul_hi_u32",
        "mul_hi_i32",
        "mad_u64_u32",
        "mad_i64_i32",
    ]
    .iter()
    .any(|head| name.strip_prefix("v_").is_some_and(|name| name.starts_with(head)))
}

/// Parts of the code that a jump on a scalar condition passes over, and that multiply no fragments: from the jump to its
/// target, both in the same loop.
fn passed_over(lines: &[&str], loops: &[Span]) -> Vec<Span> {
    let innermost = |at: usize| {
        let around = loops.iter().filter(|(first, last)| (*first..=*last).contains(&at));
        around.min_by_key(|(first, last)| last - first)
    };
    let mut passed = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((name, label)) = operations(line).next() else { continue };
        if !(name.starts_with("s_cbranch_scc") || name.starts_with("s_cbranch_vcc")) {
            continue;
        }
        let target = lines.iter().skip(at).position(|line| line.strip_suffix(':') == Some(label.trim()));
        let Some(target) = target.map(|behind| at + behind) else { continue };
        let multiplies = lines[at..target].iter().any(|line| line.starts_with("v_wmma"));
        if !multiplies && innermost(at) == innermost(target) {
            passed.push((at, target));
        }
    }
    passed
}

/// The cycles of the hot loop of a kernel that multiplies fragments, for waves of `lanes`; `None` if no loop multiplies
/// any.
///
/// The hot loop is the outermost one that stores nothing in a buffer, so that a loop over tiles with their epilogues
/// isn't the hot one, but a loop along k with an inner loop is. Of several, the one with the most matrix cycles counts.
/// Code that a scalar condition passes over is for edges and rare cases, and left out.
pub fn matrix_loop(assembly: &str, lanes: u32) -> Option<Cycles> {
    let (lines, loops) = lines_and_loops(assembly);
    let passed = passed_over(&lines, &loops);
    let counted = loops.iter().filter_map(|this| {
        let inner: Vec<_> = loops.iter().filter(|other| holds(this, other)).collect();
        let mut cycles = Cycles::default();
        for (at, line) in lines.iter().enumerate().take(this.1 + 1).skip(this.0) {
            let name = operations(line).next().map_or("", |(name, _)| name);
            if name.starts_with("buffer_store") || name.starts_with("global_store") {
                return None;
            }
            if !line.ends_with(':') && !passed.iter().any(|(jump, target)| at > *jump && at < *target) {
                let around = inner.iter().filter(|(first, last)| (*first..=*last).contains(&at)).count();
                cycles.add(Cycles::of(name, u64::from(lanes)), TURNS.pow(around as u32));
            }
        }
        Some((cycles, cycles.matrix * TURNS.pow(depth(&loops, this)), this.1 - this.0))
    });
    let hot = counted.filter(|(cycles, ..)| cycles.matrix > 0);
    hot.max_by_key(|(_, spent, length)| (*spent, *length)).map(|(cycles, ..)| cycles)
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
    fn every_kind_of_instruction_has_its_cycles() {
        let cycles = |matrix, vector, shared, other| Cycles { matrix, vector, shared, other };
        for (name, in_32, in_64) in [
            ("v_wmma_f32_16x16x16_f16", cycles(32, 0, 0, 0), cycles(32, 0, 0, 0)),
            ("v_wmma_i32_16x16x16_iu4", cycles(16, 0, 0, 0), cycles(16, 0, 0, 0)),
            ("v_pk_mul_f16", cycles(0, 1, 0, 0), cycles(0, 2, 0, 0)),
            ("(invalid", cycles(0, 1, 0, 0), cycles(0, 2, 0, 0)),
            ("v_exp_f32_e32", cycles(0, 4, 0, 0), cycles(0, 8, 0, 0)),
            ("v_mul_lo_u32", cycles(0, 4, 0, 0), cycles(0, 8, 0, 0)),
            ("v_mul_lo_u16", cycles(0, 1, 0, 0), cycles(0, 2, 0, 0)),
            ("ds_load_b128", cycles(0, 0, 4, 0), cycles(0, 0, 8, 0)),
            ("ds_store_2addr_stride64_b32", cycles(0, 0, 2, 0), cycles(0, 0, 4, 0)),
            ("ds_write2_b64", cycles(0, 0, 4, 0), cycles(0, 0, 8, 0)),
            ("ds_bpermute_b32", cycles(0, 0, 1, 0), cycles(0, 0, 2, 0)),
            ("buffer_load_b128", cycles(0, 0, 0, 1), cycles(0, 0, 0, 1)),
            ("s_barrier", cycles(0, 0, 0, 1), cycles(0, 0, 0, 1)),
            ("s_waitcnt_vscnt", Cycles::default(), Cycles::default()),
            ("s_delay_alu", Cycles::default(), Cycles::default()),
        ] {
            assert_eq!((Cycles::of(name, 32), Cycles::of(name, 64)), (in_32, in_64), "{name}");
        }
    }

    const MULTIPLY: &str = "v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7] ; cc404000\n";

    #[test]
    fn a_loop_along_k_includes_its_inner_loops() {
        // Two multiplications, unrolled, after an inner loop that stages operands and before one that multiplies.
        let assembly = format!(
            "BB0:\nds_load_b128 v[8:11], v1\n{MULTIPLY}{MULTIPLY}
            BB1:\nds_store_b32 v1, v2\ns_cbranch_scc0 BB1
            BB2:\nv_dual_mov_b32 v1, v2 :: v_dual_mov_b32 v3, v4\n{MULTIPLY}s_cbranch_scc0 BB2
            s_waitcnt vmcnt(0)\ns_branch BB0\nv_exp_f32 v1, v2"
        );
        let found = matrix_loop(&assembly, 32).expect("a loop");
        let (inner, jumps) = (8, 8 + 8 + 1);
        let wanted = Cycles { matrix: 64 + inner * 32, vector: inner, shared: 4 + inner, other: jumps };
        assert_eq!(found, wanted);
        assert!((found.share() - 100.0 * 320.0 / 357.0).abs() < 1e-9);
    }

    #[test]
    fn a_loop_that_stores_results_is_not_the_hot_one() {
        let assembly = format!(
            "BB0:\nv_mov_b32 v1, v2
            BB1:\ns_barrier\n{MULTIPLY}s_cbranch_scc0 BB1
            buffer_store_b128 v[0:3], v4, s[0:3], 0 offen\ns_branch BB0"
        );
        let found = Cycles { matrix: 32, other: 2, ..Cycles::default() };
        assert_eq!(matrix_loop(&assembly, 64), Some(found));
        // A second loop that multiplies more.
        let two = format!("{assembly}\nBB2:\n{MULTIPLY}{MULTIPLY}s_cbranch_scc0 BB2");
        assert_eq!(matrix_loop(&two, 64), Some(found), "an outer loop runs the first one eight times");
        let two = two.replace("s_branch BB0", "");
        let found = Cycles { matrix: 64, other: 1, ..Cycles::default() };
        assert_eq!(matrix_loop(&two, 64), Some(found));
        assert_eq!(matrix_loop(MULTIPLY, 64), None);
        assert_eq!(matrix_loop("BB0:\nv_fma_f32 v1, v2\ns_branch BB0", 64), None);
    }

    #[test]
    fn rare_blocks_are_left_out() {
        let of = |jump: &str, skipped: &str| {
            let assembly = format!(
                "BB0:\n{MULTIPLY}s_cbranch_scc1 BB9\n{jump} BB2\n{skipped}BB2:\nv_mov_b32 v1, v2\ns_branch BB0\nBB9:"
            );
            matrix_loop(&assembly, 32).expect("a loop")
        };
        let rare = "v_exp_f32 v1, v2\nBB1:\ns_cbranch_scc1 BB3\nds_load_b32 v1, v2\ns_branch BB1\nBB3:\n";
        let without = Cycles { matrix: 32, vector: 1, other: 3, ..Cycles::default() };
        assert_eq!(of("s_cbranch_scc0", rare), without);
        assert_eq!(of("s_cbranch_vccz", rare), without);
        // A condition of single lanes, and the body of an inner loop behind its exit.
        let with = Cycles { vector: 5, shared: 8, other: 3 + 16, ..without };
        assert_eq!(of("s_cbranch_execz", rare), with);
        let multiplies = Cycles { matrix: 64, ..without };
        assert_eq!(of("s_cbranch_scc0", MULTIPLY), multiplies);
    }

    #[test]
    fn code_without_a_multiplying_loop_has_no_hot_loop() {
        assert_eq!(hot_loop("BB0:\n\tv_fma_f32 v1, v2, v3, v4\n\ts_endpgm"), None);
        assert_eq!(hot_loop("BB0:\n\tv_mov_b32 v1, v2\n\ts_cbranch_scc0 BB0\n\ts_endpgm"), None);
    }
}
