//! Squared Euclidean distances between queries and gallery rows: a matrix product, combined with the norms of the rows.

use super::gemm::{Epilogue, Form, Nt, Tile};
use super::{THREADS, expect, u32_of};
use crate::entry_points;
use crate::gpu::{Constants, Kernel, Recorder, ShaderFile, Tensor};

static FILE: ShaderFile = ShaderFile::new("distance", include_str!("../../shaders/distance.wgsl"));

entry_points! {
    struct Params in 16 bytes { rows: u32, columns: u32 }
    /// Sum of squares of each row.
    fn distance_norms(rows: read, norms: write);
    /// Turns products into distances.
    fn distance_finish(query_norms: read, gallery_norms: read, distances: update);
}

pub(super) fn variants() -> Vec<(Kernel, Constants)> {
    vec![(FILE.kernel::<distance_norms>(), vec![]), (FILE.kernel::<distance_finish>(), vec![])]
}

/// Columns of a slab: 4·SLAB of `distance.wgsl`.
pub const SLAB: usize = 512;

/// First word and width of each slab of a matrix that is stored slab by slab.
///
/// A slab holds [`SLAB`] columns of all `count` rows. The last slab holds the remaining columns of `dim`.
pub fn slabs(count: usize, dim: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..dim).step_by(SLAB).map(move |first| (first * count, SLAB.min(dim - first)))
}

/// The largest distance: FAR of `distance.wgsl`. Larger values and overflows become FAR.
pub const FAR: f32 = 1e30;

/// Largest row length in elements. With longer rows a tile of `gemm_tiled.wgsl` exceeds the number of loop iterations
/// that Mesa's llvmpipe grants an invocation: 65,535 in total, after which it stops without an error.
pub const MAX_DIM: usize = 32_768;

fn check(name: &str, dim: usize) {
    let right = dim.is_multiple_of(4) && dim <= MAX_DIM;
    assert!(right, "{name}: rows of {dim} words, not a multiple of 4 up to {MAX_DIM}");
}

/// norms\[r\] = Σ_d rows\[r,d\]².
#[derive(Debug, Clone, Copy)]
pub struct Norms {
    /// Rows (R, D), stored slab by slab ([`slabs`]).
    pub rows: Tensor,
    /// Norms (R), written.
    pub norms: Tensor,
    /// Rows R.
    pub count: usize,
    /// Row length D, a multiple of 4 up to [`MAX_DIM`].
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

/// distances\[q,g\] = squared Euclidean distance, from 0 to [`FAR`].
#[derive(Debug, Clone)]
pub struct Distances {
    /// Queries (Q, D), one tensor for each of the [`slabs`].
    pub queries: Vec<Tensor>,
    /// Gallery rows (G, D), one tensor for each of the [`slabs`].
    pub gallery: Vec<Tensor>,
    /// [`Norms`] of the queries (Q).
    pub query_norms: Tensor,
    /// [`Norms`] of the gallery (G).
    pub gallery_norms: Tensor,
    /// Distances (Q, G), written.
    pub distances: Tensor,
    /// Partial sums (Q, G), written if there is more than one slab.
    pub partial: Tensor,
    /// Queries Q.
    pub query_count: usize,
    /// Gallery rows G.
    pub gallery_count: usize,
    /// Row length D, a multiple of 4 up to [`MAX_DIM`].
    pub dim: usize,
}

impl Distances {
    /// Records the products with the tile of the built-in table, then the distances.
    pub fn record(&self, recorder: &mut Recorder<'_>, name: &str) {
        let (m, n, k) = (self.query_count, self.gallery_count, self.dim.min(SLAB));
        let tile = Tile::built_in(Form::Nt, recorder.context, m, n, k);
        self.record_with(recorder, name, tile);
    }

    /// Records the products with `tile`, then the distances.
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
            // The buffers alternate such that the last sum is in `distances`.
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
            // |q|² + |g|², a multiply-add, and both comparisons of the clamp.
            .record(recorder, name, 5.0 * distances.len as f64);
    }
}
