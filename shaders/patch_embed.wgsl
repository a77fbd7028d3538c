// Patch embedding, the tiled family for GPUs: a convolution as a matrix product of patches gathered on load.
//
//   patches[m,n] = bias[n] + Σ_k pixel(m,k)·weight[n,k]        m = (b·rows + gy)·columns + gx,  k = (c·P + ky)·P + kx
//   pixel(m,k) = image[b, c, gy·S + ky, gx·S + kx]
//   dweight[n,k] = Σ_m dpatches[m,n]·pixel(m,k)      dbias[n] = Σ_m dpatches[m,n]      pixels need no gradient
//   dpatches[m,n] = dtokens[b, prefix + gy·columns + gx, n]
//
// patch_embed_forward: image (B, 3, height, width) read   weight (D, 3·P·P) read   bias (D) read if HAS_BIAS
// patches (B·N, D) written
// patch_embed_backward: image read   dtokens (B, prefix + N, D) read   dweight (D, 3·P·P) written
// dbias (D) written if HAS_BIAS
// Forward, a workgroup owns BM patches × BN outputs, an invocation TILE × TILE of them. k ascends through one f32
// accumulator by fma, so the bits are those of patch_embed_subgroup.wgsl. Error ≤ (3·P·P + 1)·2⁻²⁴·Σ|pixel||weight|.
// Backward, a workgroup owns BM outputs n × BN weights k, and m ascends; error ≤ B·N·2⁻²⁴·Σ|dpatches||pixel|.
// Source: [LAT eq. 1-2], [ViT eq. 1]. Patches overlap if S < P.
// Limits: backward D a multiple of 4; all tensors below 2³² elements.

struct Params {
    height: u32,
    width: u32,
    side: u32,
    stride: u32,
    rows: u32,
    columns: u32,
    batch: u32,
    dim: u32,
    // Tokens of an image before its patches in dtokens.
    prefix: u32,
    unused_1: u32,
    unused_2: u32,
    unused_3: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> image: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> patches: array<f32>;

@group(0) @binding(2) var<storage, read> dtokens: array<Quad>;
@group(0) @binding(3) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;

override HAS_BIAS: bool = true;

const BM: u32 = 32;
const BN: u32 = 32;
const BK: u32 = 16;
const TILE: u32 = 4;

const_assert BM == BN;
const_assert TILE == 4;

const ALONG_N = BN / TILE;
const THREADS = (BM / TILE) * (BN / TILE);

// Forward: pixels[k][m] and weights[k][n]. Backward: pixels[m][k] and gradients[m][n / 4].
var<workgroup> pixels: array<f32, BK * BM>;
var<workgroup> weights: array<f32, BK * BN>;
var<workgroup> gradients: array<vec4f, BK * BM / 4u>;

// Index in `dtokens` of the gradient of patch m.
fn gradient_row(m: u32) -> u32 {
    let patches_per_image = params.rows * params.columns;
    let image = m / patches_per_image;
    return (image * (params.prefix + patches_per_image) + params.prefix + m % patches_per_image) * params.dim;
}

@compute @workgroup_size(THREADS)
fn patch_embed_forward(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let count = params.batch * params.rows * params.columns;
    let depth = 3u * params.side * params.side;
    let first_m = group.y * BM;
    let first_n = group.x * BN;
    let my_m = (lane / ALONG_N) * TILE;
    let my_n = (lane % ALONG_N) * TILE;

    var sums: array<array<f32, TILE>, TILE>;
    for (var step = 0u; step < depth; step += BK) {
        for (var t = lane; t < BM * BK; t += THREADS) {
            let k = step + t % BK;
            let m = first_m + t / BK;
            var value = 0.0;
            if (k < depth && m < count) {
                value = image[corner(m) + pixel_of(k)];
            }
            pixels[(t % BK) * BM + t / BK] = value;
        }
        for (var t = lane; t < BN * BK; t += THREADS) {
            let k = step + t % BK;
            let n = first_n + t / BK;
            var value = 0.0;
            if (k < depth && n < params.dim) {
                value = weight[n * depth + k];
            }
            weights[(t % BK) * BN + t / BK] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < BK; k++) {
            for (var i = 0u; i < TILE; i++) {
                let left = pixels[k * BM + my_m + i];
                for (var j = 0u; j < TILE; j++) {
                    sums[i][j] = fma(left, weights[k * BN + my_n + j], sums[i][j]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TILE; i++) {
        for (var j = 0u; j < TILE; j++) {
            let m = first_m + my_m + i;
            let n = first_n + my_n + j;
            if (m < count && n < params.dim) {
                var value = sums[i][j];
                if (HAS_BIAS) {
                    value += bias[n];
                }
                patches[m * params.dim + n] = value;
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn patch_embed_backward(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let count = params.batch * params.rows * params.columns;
    let depth = 3u * params.side * params.side;
    let first_n = group.y * BM;
    let first_k = group.x * BN;
    let my_n = (lane / ALONG_N) * TILE;
    let my_k = (lane % ALONG_N) * TILE;

    var sums: array<array<f32, TILE>, TILE>;
    var bias_sums: vec4f;
    for (var step = 0u; step < count; step += BK) {
        for (var t = lane; t < BM * BK / 4u; t += THREADS) {
            let m = step + t / (BM / 4u);
            let n = first_n + t % (BM / 4u) * 4u;
            var values = vec4f(0.0);
            if (m < count && n < params.dim) {
                values = unpack(dtokens[(gradient_row(m) + n) / 4u]);
            }
            gradients[t] = values;
        }
        for (var t = lane; t < BN * BK; t += THREADS) {
            let m = step + t / BN;
            let k = first_k + t % BN;
            var value = 0.0;
            if (m < count && k < depth) {
                value = image[corner(m) + pixel_of(k)];
            }
            pixels[t] = value;
        }
        workgroupBarrier();
        for (var m = 0u; m < BK; m++) {
            let left = gradients[(m * BM + my_n) / 4u];
            bias_sums += left;
            for (var i = 0u; i < TILE; i++) {
                for (var j = 0u; j < TILE; j++) {
                    sums[i][j] = fma(left[i], pixels[m * BN + my_k + j], sums[i][j]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TILE; i++) {
        let n = first_n + my_n + i;
        for (var j = 0u; j < TILE; j++) {
            let k = first_k + my_k + j;
            if (n < params.dim && k < depth) {
                dweight[n * depth + k] = sums[i][j];
            }
        }
        if (HAS_BIAS && first_k + my_k == 0u && n < params.dim) {
            dbias[n] = bias_sums[i];
        }
    }
}
