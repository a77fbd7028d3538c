//! Jigsaw: sequences of shuffled patches, and the features made of their class tokens.

use super::{expect, expect_quads, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("jigsaw", include_str!("../../shaders/jigsaw.wgsl")).quads();

entry_points! {
    struct Params in 32 bytes {
        batch: u32, tokens: u32, dim: u32, pieces: u32, first: u32, parts: u32, from_part: u32, scale: f32
    }
    fn jigsaw_cut(z: read_quads, pieces: write_quads);
    fn jigsaw_merge(dwhole: read_quads, dpieces: read_quads, dz: write_quads);
    fn jigsaw_features(whole: read_quads, cut_pieces: read_quads, features: write);
    fn jigsaw_spread(dfeatures: read, dtokens: write_quads);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    let entries = [
        FILE.kernel::<jigsaw_cut>(),
        FILE.kernel::<jigsaw_merge>(),
        FILE.kernel::<jigsaw_features>(),
        FILE.kernel::<jigsaw_spread>(),
    ];
    entries.map(|entry| (entry, vec![])).to_vec()
}

/// The dimensions of a jigsaw.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Batch size B.
    pub batch: usize,
    /// Tokens per image: the class token and N patches, more than 4.
    pub tokens: usize,
    /// Width of a token D.
    pub dim: usize,
    /// Sequences per image P, at most N.
    pub pieces: usize,
}

impl Shape {
    /// Returns the tokens of a sequence: 1 + ⌊N/P⌋.
    pub fn length(&self) -> usize {
        1 + (self.tokens - 1) / self.pieces
    }

    /// Returns the dimensions of the whole images.
    fn whole(&self) -> [usize; 3] {
        [self.batch, self.tokens, self.dim]
    }

    /// Returns the dimensions of the sequences.
    fn cut(&self) -> [usize; 3] {
        [self.batch * self.pieces, self.length(), self.dim]
    }

    /// # Panics
    /// If there are too few patches.
    #[track_caller]
    fn params(&self) -> Params {
        let Shape { batch, tokens, dim, pieces } = *self;
        assert!(tokens > 5 && tokens > pieces, "{tokens} tokens are too few for {pieces} pieces");
        let [batch, tokens, dim, pieces] = [batch, tokens, dim, pieces].map(u32_of);
        Params { batch, tokens, dim, pieces, first: 0, parts: 1 + pieces, from_part: 0, scale: 1.0 }
    }
}

/// P sequences of each image: its class token, then a share of its patches, rotated and shuffled.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Tokens (B, 1+N, D).
    pub z: Tensor,
    /// Sequences (B·P, 1+M, D), written; M = ⌊N/P⌋.
    pub pieces: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl Cut {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Cut { z, pieces, shape } = *self;
        expect(recorder, "z", z, &shape.whole());
        expect(recorder, "pieces", pieces, &shape.cut());
        expect_quads(recorder, shape.dim);
        FILE.launch(shape.params(), jigsaw_cut { z, pieces })
            .invocations(pieces.len / 4)
            .record(recorder, name, 0.0);
    }
}

/// The gradient of the tokens that [`Cut`] read, plus that of their other use.
#[derive(Debug, Clone, Copy)]
pub struct Merge {
    /// Gradient of the tokens by their other use (B, 1+N, D).
    pub dwhole: Tensor,
    /// Gradient of the sequences (B·P, 1+M, D).
    pub dpieces: Tensor,
    /// Sum (B, 1+N, D), written.
    pub dz: Tensor,
    /// Dimensions.
    pub shape: Shape,
}

impl Merge {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Merge { dwhole, dpieces, dz, shape } = *self;
        expect(recorder, "dwhole", dwhole, &shape.whole());
        expect(recorder, "dpieces", dpieces, &shape.cut());
        expect(recorder, "dz", dz, &shape.whole());
        expect_quads(recorder, shape.dim);
        FILE.launch(shape.params(), jigsaw_merge { dwhole, dpieces, dz })
            .invocations(dz.len / 4)
            // Each token of a sequence is added once.
            .record(recorder, name, dpieces.len as f64);
    }
}

/// The features of each image: its class token, then those of its sequences, times a factor.
#[derive(Debug, Clone, Copy)]
pub struct Features {
    /// Tokens of the images (B, 1+N, D).
    pub whole: Tensor,
    /// Tokens of the sequences (B·P, 1+M, D).
    pub pieces: Tensor,
    /// Features (`first` + B or more, 1+P, D), of which B images are written.
    pub features: Tensor,
    /// The first image that is written.
    pub first: usize,
    /// Factor of the features of sequences.
    pub scale: f32,
    /// Dimensions.
    pub shape: Shape,
}

impl Features {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Features { whole, pieces, features, first, scale, shape } = *self;
        expect(recorder, "whole", whole, &shape.whole());
        expect(recorder, "pieces", pieces, &shape.cut());
        expect_quads(recorder, shape.dim);
        let each = (1 + shape.pieces) * shape.dim;
        assert!((first + shape.batch) * each <= features.len, "{name}: {} features", features.len);
        let params = Params { first: u32_of(first), scale, ..shape.params() };
        FILE.launch(params, jigsaw_features { whole, cut_pieces: pieces, features })
            .invocations(shape.batch * each / 4)
            // The features of sequences have a factor.
            .record(recorder, name, (shape.batch * shape.pieces * shape.dim) as f64);
    }
}

/// The gradient of tokens of which only the class tokens are used, as features.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Gradient of the features (`first` + S/C or more, F, D).
    pub dfeatures: Tensor,
    /// Gradient of the tokens (S, T, D), written.
    pub dtokens: Tensor,
    /// The first image that is read.
    pub first: usize,
    /// Features of an image F, and the first of them that has a sequence.
    pub parts: [usize; 2],
    /// Sequences of an image C.
    pub sequences: usize,
    /// Tokens of a sequence T.
    pub tokens: usize,
    /// Width of a token D.
    pub dim: usize,
}

impl Spread {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Spread { dfeatures, dtokens, first, parts: [parts, from], sequences, tokens, dim } = *self;
        let all = dtokens.len / (tokens * dim);
        expect(recorder, "dtokens", dtokens, &[all, tokens, dim]);
        expect_quads(recorder, dim);
        assert!(all.is_multiple_of(sequences) && from + sequences <= parts, "{name}: {all} sequences");
        assert!(
            (first + all / sequences) * parts * dim <= dfeatures.len,
            "{name}: {} features",
            dfeatures.len
        );
        let [batch, tokens, dim, pieces] = [all, tokens, dim, sequences].map(u32_of);
        let [first, parts, from_part] = [first, parts, from].map(u32_of);
        let params = Params { batch, tokens, dim, pieces, first, parts, from_part, scale: 1.0 };
        FILE.launch(params, jigsaw_spread { dfeatures, dtokens })
            .invocations(dtokens.len / 4)
            .record(recorder, name, 0.0);
    }
}
