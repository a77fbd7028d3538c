//! The input sequence of the transformer: prefix tokens, then patches, plus position embeddings.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("tokens", include_str!("../../shaders/tokens.wgsl")).quads();

entry_points! {
    struct Params in 32 bytes { batch: u32, prefix: u32, patches: u32, dim: u32, positioned: u32 }
    fn tokens_forward(prefix: read, patches: read, position: read, tokens: write_quads);
    fn tokens_backward(dtokens: read_quads, dprefix: write, dposition: write);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<tokens_forward>(), vec![]), (FILE.kernel::<tokens_backward>(), vec![])]
}

impl Params {
    /// # Panics
    /// If `positions` means more prefix tokens with a position than there are.
    #[track_caller]
    fn new(batch: usize, prefix: usize, patches: usize, positions: usize, dim: usize) -> Params {
        let positioned = positions.checked_sub(patches).filter(|&rows| rows <= prefix);
        let positioned = positioned.unwrap_or_else(|| {
            panic!("{positions} rows of positions for {patches} patches after {prefix} tokens")
        });
        Params {
            batch: u32_of(batch),
            prefix: u32_of(prefix),
            patches: u32_of(patches),
            dim: u32_of(dim),
            positioned: u32_of(positioned),
        }
    }
}

/// tokens = [prefix; patches] + position. The first S of P prefix tokens and all patches have a position.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// Prefix tokens (P, D): class token, then distillation or register tokens.
    pub prefix: Tensor,
    /// Patches (B, N, D).
    pub patches: Tensor,
    /// Position embeddings (S+N, D), S ≤ P.
    pub position: Tensor,
    /// Tokens (B, P+N, D), written.
    pub tokens: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Patches per image N.
    pub count: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl Forward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Forward { prefix, patches, position, tokens, batch, count, dim } = *self;
        let prefix_tokens = prefix.len / dim;
        expect(recorder, "prefix", prefix, &[prefix_tokens, dim]);
        expect(recorder, "patches", patches, &[batch, count, dim]);
        let positions = position.len / dim;
        expect(recorder, "position", position, &[positions, dim]);
        expect(recorder, "tokens", tokens, &[batch, prefix_tokens + count, dim]);
        expect_quads(recorder, dim);
        let params = Params::new(batch, prefix_tokens, count, positions, dim);
        FILE.launch(params, tokens_forward { prefix, patches, position, tokens })
            .invocations(tokens.len / 4)
            // One addition where a token has a position.
            .record(recorder, name, (batch * position.len) as f64);
    }
}

/// dprefix and dposition are Σ_b dtokens\[b,t\] of their tokens t. The gradients of patches are rows of dtokens.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// Gradient of the tokens (B, P+N, D).
    pub dtokens: Tensor,
    /// Gradient of the prefix tokens (P, D), written.
    pub dprefix: Tensor,
    /// Gradient of the position embeddings (S+N, D), S ≤ P, written.
    pub dposition: Tensor,
    /// Batch size B.
    pub batch: usize,
    /// Patches per image N.
    pub count: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl Backward {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Backward { dtokens, dprefix, dposition, batch, count, dim } = *self;
        let prefix = dprefix.len / dim;
        expect(recorder, "dtokens", dtokens, &[batch, prefix + count, dim]);
        expect_quads(recorder, dim);
        expect(recorder, "dprefix", dprefix, &[prefix, dim]);
        let positions = dposition.len / dim;
        expect(recorder, "dposition", dposition, &[positions, dim]);
        let params = Params::new(batch, prefix, count, positions, dim);
        FILE.launch(params, tokens_backward { dtokens, dprefix, dposition })
            .invocations((prefix + count) * dim / 4)
            .record(recorder, name, dtokens.len as f64);
    }
}
