// Converts the bytes of images to the network's input: scaled to [0, 1], normalised, interleaved to planar.
//
//   image[b,c,y,x] = (pixels[b,y,x',c] / 255 - mean[c]) / deviation[c]      x' = flip[b] ? width - 1 - x : x
//
// pixels (B, height, width, 3) bytes, four per word, the first in the low bits, read
// flip (B) words, 1 to mirror an image left to right, read if HAS_FLIP   image (B, 3, height, width) written
// One invocation owns one image[b,c,y,x]. Divides as torchvision does; error ≤ 3 ulp. Pixels need no derivative.
// Source: preprocessing of the released code. Limits: 3·B·height·width below 2³².

struct Params {
    height: u32,
    width: u32,
    batch: u32,
    unused: u32,
    mean: vec4f,
    deviation: vec4f,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> pixels: array<u32>;
@group(0) @binding(2) var<storage, read> flip: array<u32>;
@group(0) @binding(3) var<storage, read_write> image: array<f32>;

override HAS_FLIP: bool = false;

const THREADS: u32 = 64;

@compute @workgroup_size(THREADS)
fn image_forward(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * THREADS + lane;
    let plane = params.height * params.width;
    if (i >= params.batch * 3u * plane) {
        return;
    }
    let channel = (i / plane) % 3u;
    let row = i / (3u * plane);
    let y = (i % plane) / params.width;
    var x = i % params.width;
    if (HAS_FLIP) {
        x = select(x, params.width - 1u - x, flip[row] != 0u);
    }
    let byte = (row * plane + y * params.width + x) * 3u + channel;
    let value = f32((pixels[byte / 4u] >> (8u * (byte % 4u))) & 255u);
    image[i] = (value / 255.0 - params.mean[channel]) / params.deviation[channel];
}
