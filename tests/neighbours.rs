//! Distances and nearest rows over a gallery in tiles: exact on integers, with the same bits for all tiles.

mod common;

use common::random::{normal, sample};
use common::{assert_same_bits, context};
use lat_wgpu::embeddings::rows::{EmbeddingFile, Rows, Stacked};
use lat_wgpu::embeddings::{Dtype, EmbeddingWriter, Embeddings};
use lat_wgpu::error::{Error, Result};
use lat_wgpu::kernels::topk::MAX_K;
use lat_wgpu::reference::{distance, topk};
use lat_wgpu::retrieval::neighbours::{Neighbour, Neighbours, Tiles};
use lat_wgpu::rng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

const MEMORY: u64 = 64 << 20;

fn embeddings(rows: Vec<f32>, dim: usize) -> Embeddings {
    let paths = (0..rows.len() / dim).map(|row| format!("{row}.jpg")).collect();
    Embeddings { paths, dim, rows }
}

/// Integers from -2 to 2; rows of few dimensions are often equal.
fn whole(stream: u64, count: usize, dim: usize) -> Embeddings {
    let number = |i| (rng::bits(7, stream, i) % 5) as f32 - 2.0;
    embeddings((0..(count * dim) as u64).map(number).collect(), dim)
}

fn write(out: &Path, embeddings: &Embeddings, dtype: Dtype) {
    let Embeddings { paths, dim, rows } = embeddings;
    let mut writer = EmbeddingWriter::create(out, *dim, dtype, paths, &BTreeMap::new()).unwrap();
    for (name, row) in paths.iter().zip(rows.chunks(*dim)) {
        writer.push(name, row).unwrap();
    }
    writer.finish().unwrap();
}

fn tiles(queries: usize, gallery: usize, resident: bool) -> Tiles {
    Tiles { queries, gallery, resident }
}

/// Distances computed in f64 and rounded: exact for integers.
fn exact(queries: &Embeddings, gallery: &Embeddings) -> Vec<f32> {
    let rows =
        |query| gallery.rows.chunks(gallery.dim).map(move |row| distance::distance(query, row).value as f32);
    queries.rows.chunks(queries.dim).flat_map(rows).collect()
}

/// The ranking by exact distances, ties by row.
fn ranked(distances: &[f32], gallery: usize, k: usize) -> Vec<Vec<Neighbour>> {
    let neighbour = |(distance, index): (f32, u32)| Neighbour { index: index as usize, distance };
    distances.chunks(gallery).map(|row| topk::nearest(row, k).into_iter().map(neighbour).collect()).collect()
}

#[test]
fn integers_with_many_ties_are_ranked_exactly() {
    for (queries, gallery, dim) in [(1, 1, 1), (5, 7, 3), (13, 131, 4), (9, 67, 9)] {
        let (queries, gallery) = (whole(1, queries, dim), whole(2, gallery, dim));
        let (rows, width) = (queries.len(), gallery.len());
        let wanted = exact(&queries, &gallery);
        for tiles in [
            tiles(2, 31, false),
            tiles(3, 16, true),
            tiles(4, 17, false),
            tiles(rows, width, false),
            tiles(64, 300, true),
        ] {
            let mut neighbours = Neighbours::with_tiles(context(), &queries, &gallery, tiles).unwrap();
            let case = format!("{rows}x{width}x{dim}, {tiles:?}");
            assert_same_bits(&case, &wanted, &neighbours.distances(0..rows).unwrap());
            for k in [1, 2, 10, width, width + 5] {
                let found = neighbours.nearest(0..rows, k).unwrap();
                assert_eq!(found, ranked(&wanted, width, k), "{case}, k {k}");
            }
        }
    }
}

#[test]
fn tiles_and_ranges_change_no_bit() {
    let (queries, gallery) = (embeddings(normal(3, 21 * 52), 52), embeddings(normal(4, 150 * 52), 52));
    let mut one = Neighbours::new(context(), &queries, &gallery, MEMORY).unwrap();
    // Whole quads of the gallery.
    assert_eq!(one.tiles(), tiles(21, 152, true));
    let all = one.distances(0..21).unwrap();
    let nearest = one.nearest(0..21, 20).unwrap();
    assert_eq!(nearest, ranked(&all, 150, 20));
    for tiles in [tiles(1, 13, true), tiles(5, 64, false), tiles(20, 3, true), tiles(20, 149, false)] {
        let mut cut = Neighbours::with_tiles(context(), &queries, &gallery, tiles).unwrap();
        for range in [0..21, 3..3, 20..21, 2..19, 0..4] {
            let case = format!("{tiles:?}, queries {range:?}");
            let wanted = &all[range.start * 150..range.end * 150];
            assert_same_bits(&case, wanted, &cut.distances(range.clone()).unwrap());
            assert_eq!(cut.nearest(range.clone(), 20).unwrap(), nearest[range], "{case}");
        }
    }
}

#[test]
fn a_streamed_gallery_equals_one_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let queries = embeddings(normal(5, 6 * 30), 30);
    // The values of an f16 file.
    let halved: Vec<f32> = normal(6, 90 * 30).into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect();
    let gallery = embeddings(halved, 30);
    let mut memory = Neighbours::new(context(), &queries, &gallery, MEMORY).unwrap();
    let (wanted, nearest) = (memory.distances(0..6).unwrap(), memory.nearest(0..6, 9).unwrap());
    let mut files = Vec::new();
    for (name, dtype) in [("a.npy", Dtype::F32), ("b.safetensors", Dtype::F16), ("c.npy", Dtype::F16)] {
        let path = dir.path().join(name);
        write(&path, &gallery, dtype);
        files.push(EmbeddingFile::open(&path).unwrap());
    }
    for file in &files {
        for resident in [false, true] {
            let tiles = tiles(4, 7, resident);
            let mut streamed = Neighbours::with_tiles(context(), &queries, file, tiles).unwrap();
            assert_same_bits("streamed", &wanted, &streamed.distances(0..6).unwrap());
            assert_eq!(streamed.nearest(0..6, 9).unwrap(), nearest);
        }
    }
    // Three files in sequence: every row comes three times, in the order of the files.
    let parts = Stacked::new(files.iter().map(|file| file as &dyn Rows).collect()).unwrap();
    let mut together = Neighbours::with_tiles(context(), &queries, &parts, tiles(6, 40, false)).unwrap();
    let found = together.nearest(0..6, 27).unwrap();
    for (found, nearest) in found.iter().zip(&nearest) {
        for (i, neighbour) in found.iter().enumerate() {
            let once = nearest[i / 3];
            assert_eq!(*neighbour, Neighbour { index: once.index + 90 * (i % 3), ..once });
        }
    }
}

/// Rows that count their reads.
struct Counted {
    rows: Embeddings,
    read: AtomicUsize,
}

impl Rows for Counted {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn dim(&self) -> usize {
        self.rows.dim
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.read.fetch_add(rows.len(), Ordering::Relaxed);
        self.rows.read(rows, out)
    }
}

#[test]
fn a_resident_gallery_is_read_once() {
    let queries = whole(8, 10, 4);
    for (resident, times) in [(true, 1), (false, 3 + 4)] {
        let gallery = Counted { rows: whole(9, 33, 4), read: AtomicUsize::new(0) };
        let mut neighbours =
            Neighbours::with_tiles(context(), &queries, &gallery, tiles(4, 10, resident)).unwrap();
        neighbours.nearest(0..10, 3).unwrap();
        for query in [0, 5, 9, 2] {
            neighbours.distances(query..query + 1).unwrap();
        }
        assert_eq!(gallery.read.load(Ordering::Relaxed), 33 * times, "resident: {resident}");
    }
}

#[test]
fn extreme_k_and_empty_inputs() {
    let (queries, gallery) = (whole(10, 3, 2), whole(11, MAX_K + 40, 2));
    let mut neighbours = Neighbours::with_tiles(context(), &queries, &gallery, tiles(3, 100, false)).unwrap();
    assert_eq!(neighbours.nearest(0..3, 0).unwrap(), vec![vec![]; 3]);
    let wanted = ranked(&exact(&queries, &gallery), gallery.len(), MAX_K);
    assert_eq!(neighbours.nearest(0..3, MAX_K).unwrap(), wanted);
    match neighbours.nearest(0..3, MAX_K + 1) {
        Err(Error::Usage(text)) => assert!(text.contains("1025") && text.contains("1024"), "{text}"),
        other => panic!("{other:?}"),
    }
    let nothing = embeddings(vec![], 2);
    let mut empty = Neighbours::new(context(), &queries, &nothing, MEMORY).unwrap();
    assert!(empty.distances(0..3).unwrap().is_empty());
    assert_eq!(empty.nearest(0..3, 5).unwrap(), vec![vec![]; 3]);
    let mut nobody = Neighbours::new(context(), &nothing, &gallery, MEMORY).unwrap();
    assert!(nobody.distances(0..0).unwrap().is_empty());
    assert!(nobody.nearest(0..0, 5).unwrap().is_empty());
}

#[test]
fn invalid_rows_are_named() {
    let (narrow, wide) = (whole(12, 2, 3), whole(13, 2, 5));
    let usage = |error: Option<Error>, parts: &[&str]| match error {
        Some(Error::Usage(text)) => assert!(parts.iter().all(|part| text.contains(part)), "{text}"),
        other => panic!("{other:?}"),
    };
    usage(Neighbours::new(context(), &narrow, &wide, MEMORY).err(), &["3", "5"]);
    let zero = Embeddings { paths: vec![], dim: 0, rows: vec![] };
    usage(Neighbours::new(context(), &zero, &zero, MEMORY).err(), &["no dimensions"]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut broken = whole(14, 30, 5);
        broken.rows[5 * 17 + 2] = bad;
        let fine = whole(15, 30, 5);
        let named = format!("{bad}");
        let mut neighbours = Neighbours::with_tiles(context(), &fine, &broken, tiles(30, 4, true)).unwrap();
        usage(neighbours.nearest(0..2, 3).err(), &["row of the gallery 17", "dimension 2", &named]);
        // Also the second time: a tile that failed is not taken as loaded.
        usage(neighbours.distances(0..2).err(), &["row of the gallery 17"]);
        let mut neighbours = Neighbours::new(context(), &broken, &fine, MEMORY).unwrap();
        usage(neighbours.distances(16..18).err(), &["query 17"]);
        assert_same_bits("others", &neighbours.distances(0..17).unwrap(), &exact(&broken, &fine)[..17 * 30]);
    }
    let long = embeddings(vec![0.0; 40_000], 40_000);
    assert!(matches!(Neighbours::new(context(), &long, &long, MEMORY), Err(Error::TooLarge(_))));
    match Neighbours::new(context(), &narrow, &narrow, 60) {
        Err(Error::TooLarge(text)) => assert!(text.contains("60"), "{text}"),
        _ => panic!("60 bytes are enough"),
    }
}

#[test]
fn tiles_keep_the_memory_limit() {
    let limit = context().max_tensor_bytes();
    for (queries, gallery, dim) in [
        (1, 1, 1),
        (3368, 15_913, 10_752),
        (3368, 19_732, 5376),
        (100, 1_000_000, 768),
        (1 << 20, 1 << 20, 384),
    ] {
        for memory in [8 << 20, 256 << 20, 2 << 30, 16u64 << 30] {
            let tiles = Tiles::fit(context(), queries, gallery, dim, memory).unwrap();
            let row = 4 * dim.next_multiple_of(4) as u64;
            let (q, g) = (tiles.queries as u64, tiles.gallery as u64);
            let kept = if tiles.resident { gallery.div_ceil(tiles.gallery) as u64 * g } else { g };
            let need = q * row + kept * row + 4 * q * g + 8 * q * MAX_K as u64;
            let case = format!("{queries}x{gallery}x{dim} in {memory}: {tiles:?} needs {need}");
            println!("{case}");
            assert!(
                q >= 1 && g >= 1 && q <= queries as u64 && g <= gallery.next_multiple_of(4) as u64,
                "{case}"
            );
            assert!(need <= memory && q * row <= limit && g * row <= limit && 4 * q * g <= limit, "{case}");
        }
    }
    // Market-1501 stays resident with the default memory; a larger data set doesn't.
    assert!(Tiles::fit(context(), 3368, 15_913, 10_752, 2 << 30).unwrap().resident);
    assert!(!Tiles::fit(context(), 11_659, 82_161, 10_752, 2 << 30).unwrap().resident);
}

#[test]
fn rows_of_real_size_agree_with_the_reference() {
    let dim = 14 * 384;
    let (queries, gallery) = (embeddings(normal(16, 5 * dim), dim), embeddings(normal(17, 40 * dim), dim));
    let mut neighbours = Neighbours::with_tiles(context(), &queries, &gallery, tiles(3, 16, true)).unwrap();
    let found = neighbours.distances(0..5).unwrap();
    let wanted = sample(found.len(), 200).into_iter().map(|i| {
        let (q, g) = (i / 40, i % 40);
        (i, distance::distance(&queries.rows[q * dim..][..dim], &gallery.rows[g * dim..][..dim]))
    });
    common::compare::compare("neighbours", &found, wanted, common::tolerance::distance(dim));
}
