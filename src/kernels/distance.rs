//! Squared Euclidean distances of queries to rows of a gallery: a matrix product, then the norms.

use super::gemm::{Epilogue, Form, Nt, Tile};
use super::{THREADS, expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("distance", include_str!("../../shaders/distance.wgsl"));

entry_points! {
    struct Params in 16 bytes { rows: u32, columns: u32 }
    /// Sums of squares of rows.
    fn distance_norms(rows: read, norms: write);
    /// From products to distances.
    fn distance_finish(query_norms: read, gallery_norms: read, distances: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<distance_norms>(), vec![]), (FILE.kernel::<distance_finish>(), vec![])]
}

/// Columns of a slab: 4·SLAB of `distance.wgsl`.
pub const SLAB: usize = 512;

/// Where slabs of rows stand that are kept slab by slab: first word and width of each.
///
/// A slab holds [`SLAB`] columns of all `count` rows, the last one what is left of `dim`.
pub fn slabs(count: usize, dim: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..dim).step_by(SLAB).map(move |first| (first * count, SLAB.min(dim - first)))
}

/// The largest distance there is: FAR of `distance.wgsl`. What overflows counts as that.
pub const FAR: f32 = 1e30;

/// Longest rows, in words: with longer ones a tile of `gemm_tiled.wgsl` takes more turns of its loops than Mesa's llvmpipe
/// grants an invocation (65,535 in all; it stops without a word).
pub const MAX_DIM: usize = 32_768;

fn check(name: &str, dim: usize) {
    let right = dim.is_multiple_of(4) && dim <= MAX_DIM;
    assert!(right, "{name}: rows of {dim} words, not a multiple of 4 up to {MAX_DIM}");
}

/// norms\[r\] = sum of squares of row r.
#[derive(Debug, Clone, Copy)]
pub struct Norms {
    /// (R, D), slab by slab as [`slabs`] tells.
    pub rows: Tensor,
    /// (R), written.
    pub norms: Tensor,
    /// R.
    pub count: usize,
    /// D, a multiple of 4 up to [`MAX_DIM`].
    pub dim: usize,
}

impl Norms {
    /// Records the kernel.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or D isn't a multiple of 4 up to [`MAX_DIM`].
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let Norms { rows, norms, count, dim } = *self;
        check(name, dim);
        expect(recorder, "rows", rows, &[count, dim]);
        expect(recorder, "norms", norms, &[count]);
        let params = Params { rows: u32_of(count), columns: u32_of(dim / 4) };
        let launch = FILE.launch(params, distance_norms { rows, norms }).invocations(count);
        launch.record(recorder, name, 2.0 * rows.len as f64);
    }
}

/// distances\[q,g\] = squared Euclidean distance, between 0 and [`FAR`].
#[derive(Debug, Clone)]
pub struct Distances {
    /// The [`slabs`] of (Q, D).
    pub queries: Vec<Tensor>,
    /// The [`slabs`] of (G, D).
    pub gallery: Vec<Tensor>,
    /// (Q): [`Norms`] of the queries.
    pub query_norms: Tensor,
    /// (G): [`Norms`] of the gallery.
    pub gallery_norms: Tensor,
    /// (Q, G), written.
    pub distances: Tensor,
    /// (Q, G), written where there is more than one slab: sums on their way.
    pub partial: Tensor,
    /// Q.
    pub query_count: usize,
    /// G.
    pub gallery_count: usize,
    /// D, a multiple of 4 up to [`MAX_DIM`].
    pub dim: usize,
}

impl Distances {
    /// Records the product with the tile from the built-in table, and what follows.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let (m, n, k) = (self.query_count, self.gallery_count, self.dim.min(SLAB));
        let tile = Tile::built_in(Form::Nt, recorder.context, m, n, k);
        self.record_with(recorder, name, tile);
    }

    /// Records the product with a tile of the caller's choice, and what follows.
    ///
    /// # Panics
    /// If a tensor doesn't fit its shape, or D isn't a multiple of 4 up to [`MAX_DIM`].
    pub fn record_with(&self, recorder: &mut Recorder<'_>, name: &str, tile: Tile) {
        let Distances {
            query_norms, gallery_norms, distances, partial, query_count, gallery_count, dim, ..
        } = *self;
        check(name, dim);
        let count = dim.div_ceil(SLAB);
        assert_eq!([self.queries.len(), self.gallery.len()], [count; 2], "{name}: slabs of {dim} columns");
        let mut residual = None;
        for (i, (_, width)) in slabs(query_count, dim).enumerate() {
            // The last sum belongs into `distances`, the one before into the other.
            let c = if (count - i) % 2 == 1 { distances } else { partial };
            let product = Nt {
                a: self.queries[i],
                b: self.gallery[i],
                c,
                m: query_count,
                n: gallery_count,
                k: width,
                epilogue: Epilogue { residual, ..Epilogue::default() },
            };
            product.record_with(recorder, name, tile);
            residual = Some(c);
        }
        expect(recorder, "query_norms", query_norms, &[query_count]);
        expect(recorder, "gallery_norms", gallery_norms, &[gallery_count]);
        let params = Params { rows: u32_of(query_count), columns: u32_of(gallery_count) };
        FILE.launch(params, distance_finish { query_norms, gallery_norms, distances })
            .workgroups(query_count * gallery_count.div_ceil(THREADS))
            // |q|² + |g|², a multiply-add, and both ends of the clamp.
            .record(recorder, name, 5.0 * distances.len as f64);
    }
}
