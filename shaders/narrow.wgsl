// Copies f32 parameters to the storage in which matrix products read them.
//
//   narrow[i] = wide[i], rounded to the storage
//
// wide (N) read   narrow (N) written
// One invocation owns one quad. Error: half a unit in the last place of the storage; for f16 2⁻¹²·|wide|. A value
// beyond the largest f16, 65504, becomes infinity.
// Source: mixed-precision training [Micikevicius et al. 2018 §3.1]: f32 masters, f16 copies. Limits: N a multiple of 4.

struct Params {
    quads: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> wide: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> narrow: array<Quad>;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn narrow_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    if (i < params.quads) {
        narrow[i] = pack(wide[i]);
    }
}
