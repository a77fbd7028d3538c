// Converts the bytes of images to the network's input: scaled to [0, 1], normalised, interleaved to planar.
//
//   image[b,c,y,x] = (pixels[b,y,x',c] / 255 - mean[c]) / deviation[c]      x' = flip[b] ? width - 1 - x : x
//   Where (y, x') is in the image's erased rectangle, image is random, by the Box-Muller transform:
//   image[b,c,y,x] = √(-2·ln(1 - u_0))·cos(2π·u_1)      u_i = uniform(seed, (epoch, NOISE), (2·j + i, place + b))
//   with j = (c·height + y)·width + x: a normal number of mean 0 and deviation 1.
//
// pixels (B, height, width, 3) bytes, four per word, the first in the low bits, read
// flip (B) words, 1 to mirror an image left to right, read if HAS_FLIP   image (B, 3, height, width) written
// erased (B) vec4 of words: top, left, height and width of the rectangle in pixels, read if HAS_NOISE
// step read if HAS_NOISE: common/step.wgsl
// One invocation owns one image[b,c,y,x]. Divides as torchvision does; error ≤ 3 ulp, and of noise that of the built-in
// functions: 2⁻¹⁰. Pixels need no derivative. The noise depends on the image's position in the epoch, not on the
// division into batches.
// Source: preprocessing of the released code, [Zhong et al. 2017 alg. 1]. Limits: 6·B·height·width below 2³².

struct Params {
    height: u32,
    width: u32,
    batch: u32,
    first: u32,
    mean: vec4f,
    deviation: vec4f,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> pixels: array<u32>;
@group(0) @binding(2) var<storage, read> flip: array<u32>;
@group(0) @binding(3) var<storage, read_write> image: array<f32>;
@group(0) @binding(4) var<storage, read> erased: array<vec4u>;
@group(0) @binding(5) var<storage, read> step: array<u32>;

override HAS_FLIP: bool = false;
override HAS_NOISE: bool = false;

const THREADS: u32 = 64;
// High word of the random stream of noise: "nois" in ASCII.
const NOISE: u32 = 0x6e6f6973u;

// A normal number for element j of an image.
fn noise(b: u32, j: u32) -> f32 {
    let seed = vec2u(step[STEP_SEED], step[STEP_SEED + 1u]);
    let stream = vec2u(step[STEP_EPOCH], NOISE);
    let place = step[STEP_PLACE] + params.first + b;
    let u0 = random_uniform(random_bits(seed, stream, vec2u(2u * j, place)));
    let u1 = random_uniform(random_bits(seed, stream, vec2u(2u * j + 1u, place)));
    // cos(2π·u1) = -cos(2π·(u1 - 1/2)), whose argument is in the range for which WGSL bounds the error.
    return -sqrt(max(-2.0 * log(1.0 - u0), 0.0)) * cos(6.283185307179586 * (u1 - 0.5));
}

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
    var normalised = (value / 255.0 - params.mean[channel]) / params.deviation[channel];
    if (HAS_NOISE) {
        let rectangle = erased[row];
        // Differences below zero wrap to large numbers.
        if (y - rectangle.x < rectangle.z && x - rectangle.y < rectangle.w) {
            normalised = noise(row, i % (3u * plane));
        }
    }
    image[i] = normalised;
}
