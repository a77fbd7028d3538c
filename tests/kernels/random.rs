//! Validates common/random.wgsl against `rng`, bit for bit.

use crate::common::bits;
use crate::common::recordings::outputs;
use lat_wgpu::entry_points;
use lat_wgpu::gpu::ShaderFile;
use lat_wgpu::rng;

/// Writes the bits and the uniform number of each (seed, stream, index).
static DRAW: ShaderFile = ShaderFile::new(
    "draw",
    "
struct Params { count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> drawn: array<u32>;
@compute @workgroup_size(1)
fn draw(@builtin(workgroup_id) group: vec3u) {
    let i = group.x;
    if (i < params.count) {
        let bits = random_bits(words[3u * i], words[3u * i + 1u], words[3u * i + 2u]);
        drawn[2u * i] = bits;
        drawn[2u * i + 1u] = bitcast<u32>(random_uniform(bits));
    }
}
",
)
.helpers(&[include_str!("../../shaders/common/random.wgsl")]);

entry_points! {
    struct Params in 4 bytes { count: u32 }
    fn draw(words: read, drawn: write);
}

#[test]
fn the_adapter_draws_the_same_bits() {
    let high = 1 << 32;
    let mut keys = vec![[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [high, 0, 0], [0, high, 0], [0, 0, high]];
    keys.push([u64::MAX; 3]);
    keys.extend(
        (0..1000)
            .map(|i| [0, 1, 2].map(|j| u64::from(rng::bits(9, j, i)) << 32 | u64::from(rng::bits(10, j, i)))),
    );
    let words: Vec<f32> = keys
        .iter()
        .flatten()
        .flat_map(|key| [*key as u32, (*key >> 32) as u32])
        .map(f32::from_bits)
        .collect();
    let found = outputs("random", |run| {
        let (words, drawn) = (run.operand("words", &words).tensor, run.output("drawn", 2 * keys.len()));
        let launch = DRAW.launch(Params { count: keys.len() as u32 }, draw { words, drawn });
        launch.workgroups(keys.len()).record(&mut run.recorder, "draw", 0.0);
    });
    let drawn = bits(&found[0]);
    for ([seed, stream, index], drawn) in keys.into_iter().zip(drawn.chunks(2)) {
        let wanted = [rng::bits(seed, stream, index), rng::uniform(seed, stream, index).to_bits()];
        assert_eq!(drawn, wanted, "seed {seed}, stream {stream}, index {index}");
    }
}
