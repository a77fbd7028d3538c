// Fused multi-head self-attention, the matrix-unit family: products of whole fragments on the adapter's matrix units.
//
// Formula, buffers, source and sentinel: attention.wgsl, which has attention_delta. Differences:
//
// A workgroup owns ROWS queries (attention_dkv: keys) of one head: each of BLOCKS subgroups, of any size, multiplies
// SIDE of them, kept as fragments in registers, with STEP rows of the other side after another. These are read by
// squares of 4 × 4 values and staged in f16 in workgroup memory: as they are for products that sum over the head,
// transposed for those that sum over the other side. attention_forward reads them one step ahead. The other two have no
// registers for that with wide heads; attention_dq even reads lse and delta in each step. Fragments can only be added
// and multiplied, and their layout is unspecified. So scores pass through workgroup memory, SHARE invocations work on a
// row of them, and the weights return to fragments in f16.
//
// The softmax runs online in powers of 2. A row's weights are 2^(score·log₂e - peak). When a weight would exceed
// 2^LIMIT, which f16 holds, the peak becomes the row's highest score less START, and the sums are rescaled through
// workgroup memory. So a row has weights of at least 2^START, and those above 2^-21 of the largest are normal f16. In
// the backward pass probabilities are multiplied by 2^SHIFT for the same reason. Scaling a gradient of a score by
// `scale` is left to the end. A gradient beyond f16 becomes infinity.
//
// A sum adds steps, and fragments within a step, in ascending order, whatever the batch. The order within a fragment is
// the hardware's own. The kernels are therefore validated on the adapter before use, for each width of a head.
// Error, with 2⁻²³ for each addition, because units may truncate instead of rounding, and 2⁻¹¹ for the rounding of
// weights to f16: of out ≤ about 2⁻¹¹ + (Dh + T)·2⁻²³ of the largest |v|, of the gradients the same share of the sum of
// the magnitudes of their terms. lse sums unrounded weights.
// Limits: f16 alone; Dh a multiple of SIDE; SIDE 16 or 8; LANES 1, 2 or 4 times SIDE and the adapter's largest
// subgroup, so that there is one for every block; STEP a multiple of SIDE, and of 4·LANES / SIDE; 32 KiB of workgroup
// memory.

enable wgpu_cooperative_matrix;

struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
    // Index of this dispatch's first head, counted over the heads of all images.
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read_write> out: array<Quad>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

@group(0) @binding(2) var<storage, read> dout: array<Quad>;
@group(0) @binding(3) var<storage, read> kept_lse: array<f32>;
@group(0) @binding(4) var<storage, read> kept_delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<Quad>;

override KEEP_LSE: bool = false;

const HEAD_DIM: u32 = 64;
// Side of a fragment. The appended helper declares its types, and the type to load from: Element, with EACH f16.
const SIDE: u32 = 16;
// Lanes of the largest subgroup.
const LANES: u32 = 32;
// Rows of a workgroup.
const ROWS: u32 = 64;
// Rows of the other side in a step.
const STEP: u32 = 32;
// Operands of the other side that are staged: two in the backward pass.
const OPERANDS: u32 = 2;

const BLOCKS = ROWS / SIDE;
const THREADS = BLOCKS * LANES;
const QUADS = HEAD_DIM / 4u;
// Fragments along the head and along a step.
const ALONG_HEAD = HEAD_DIM / SIDE;
const ALONG_STEP = STEP / SIDE;
// Invocations that share a row of scores, and the quads of the row that each of them owns.
const SHARE = LANES / SIDE;
const OWN = STEP / (4u * SHARE);
// Squares of 4 × 4 values in the staged operands of a step, and those that an invocation copies.
const SQUARES = STEP / 4u * QUADS;
const MOVES = (2u * SQUARES + THREADS - 1u) / THREADS;

// Quads from one row of the stage to the next, for rows along the head and along the other side: two more than a row
// has, so that the rows of a fragment begin at different banks.
const PITCH = QUADS + 2u;
const OTHER_PITCH = STEP / 4u + 2u;
// Values from one row of `scores` to the next.
const SCORE_PITCH = STEP + 4u;

// The stage, in quads: operands transposed, HEAD_DIM rows each; then operands as they are, STEP rows each, whose memory
// is later that of the weights, ROWS rows each.
const TURNED = HEAD_DIM * OTHER_PITCH;
const STRAIGHT = STEP * PITCH;
const STRAIGHT_AT = OPERANDS * TURNED;
const WEIGHTS = ROWS * OTHER_PITCH;

// Before the first step, the workgroup's own rows, one operand at a time.
var<workgroup> staged: array<Element, max(STRAIGHT_AT + OPERANDS * max(STRAIGHT, WEIGHTS), ROWS * PITCH) * 4u / EACH>;
// Fragments of f32 on their way to single invocations.
var<workgroup> scores: array<f32, ROWS * SCORE_PITCH>;
// lse and delta of a step's queries, scaled.
var<workgroup> statistics: array<f32, 2u * STEP>;
// 1 if a row of the workgroup needs a higher peak.
var<workgroup> is_raised: vec4u;

const LOG2E = 1.4426950408889634;
const LN2 = 0.6931471805599453;
// Log₂ of the largest weight, and of a row's largest weight when its peak is set.
const LIMIT = 15.0;
const START = 7.0;
// Log₂ of the factor that probabilities are multiplied by in the backward pass.
const SHIFT = 15.0;

// Four quads of four neighbouring rows.
alias Square = array<Quad, 4>;
alias Values = array<vec4f, OWN>;

// Tile, head and image of a workgroup: x counts the tiles of a head's rows, y the heads.
fn place_of(group: vec3u) -> vec3u {
    let head = params.first + group.y;
    return vec3u(group.x, head % params.heads, head / params.heads);
}

// First quad of a row of q, k or v (operand 0, 1 or 2). Rows past the end repeat the last row.
fn qkv_row(group: vec3u, operand: u32, token: u32) -> u32 {
    let row = group.z * params.tokens + min(token, params.tokens - 1u);
    return ((row * 3u + operand) * params.heads + group.y) * QUADS;
}

fn dout_row(group: vec3u, token: u32) -> u32 {
    let row = group.z * params.tokens + min(token, params.tokens - 1u);
    return (row * params.heads + group.y) * QUADS;
}

// First row and quad of square t of an operand. Neighbouring invocations have neighbouring rows.
fn square(t: u32) -> vec2u {
    return vec2u(t % (STEP / 4u) * 4u, t / (STEP / 4u) % QUADS);
}

fn fetch_qkv(group: vec3u, operand: u32, token: u32, quad: u32) -> Square {
    var found: Square;
    for (var i = 0u; i < 4u; i++) {
        found[i] = qkv[qkv_row(group, operand, token + i) + quad];
    }
    return found;
}

fn fetch_dout(group: vec3u, token: u32, quad: u32) -> Square {
    var found: Square;
    for (var i = 0u; i < 4u; i++) {
        found[i] = dout[dout_row(group, token + i) + quad];
    }
    return found;
}

// Square t of a step's queries and, after SQUARES of them, of the gradients of their outputs.
fn fetch_query(group: vec3u, t: u32, start: u32) -> Square {
    if (t / SQUARES % 2u == 0u) {
        return fetch_qkv(group, 0u, start + square(t).x, square(t).y);
    }
    return fetch_dout(group, start + square(t).x, square(t).y);
}

// Stores a square as it is, as part of an operand at `at`.
fn stage_straight(at: u32, place: vec2u, found: Square) {
    for (var i = 0u; i < 4u; i++) {
        store_quad(at + (place.x + i) * PITCH + place.y, found[i]);
    }
}

// Stores a square transposed.
fn stage_turned(at: u32, place: vec2u, found: Square) {
    let to = at + place.y * 4u * OTHER_PITCH + place.x / 4u;
    store_quad(to, Quad(found[0].x, found[1].x, found[2].x, found[3].x));
    store_quad(to + OTHER_PITCH, Quad(found[0].y, found[1].y, found[2].y, found[3].y));
    store_quad(to + 2u * OTHER_PITCH, Quad(found[0].z, found[1].z, found[2].z, found[3].z));
    store_quad(to + 3u * OTHER_PITCH, Quad(found[0].w, found[1].w, found[2].w, found[3].w));
}

// Stages the workgroup's own rows of q, k or v.
fn stage_own_qkv(group: vec3u, lane: u32, operand: u32) {
    for (var t = lane; t < ROWS * QUADS; t += THREADS) {
        let row = t / QUADS;
        store_quad(row * PITCH + t % QUADS, qkv[qkv_row(group, operand, group.x * ROWS + row) + t % QUADS]);
    }
}

fn stage_own_dout(group: vec3u, lane: u32) {
    for (var t = lane; t < ROWS * QUADS; t += THREADS) {
        let row = t / QUADS;
        store_quad(row * PITCH + t % QUADS, dout[dout_row(group, group.x * ROWS + row) + t % QUADS]);
    }
}

// Loads a fragment whose rows are those of the stage from quad `at` on.
fn left(at: u32, pitch: u32) -> Left {
    let index = at * (4u / EACH);
    let stride = pitch * (4u / EACH);
    return coopLoadT<Left>(&staged[index], stride);
}

// Loads a fragment whose columns are rows of the stage.
fn right(at: u32, pitch: u32) -> Right {
    let index = at * (4u / EACH);
    let stride = pitch * (4u / EACH);
    return coopLoad<Right>(&staged[index], stride);
}

// Stores fragment `along` of the rows from `block` on.
fn store_scores(fragment: Sums, block: u32, along: u32) {
    let index = block * SCORE_PITCH + along * SIDE;
    let stride = SCORE_PITCH;
    coopStoreT(fragment, &scores[index], stride);
}

fn load_scores(block: u32) -> Sums {
    let index = block * SCORE_PITCH;
    let stride = SCORE_PITCH;
    return coopLoadT<Sums>(&scores[index], stride);
}

// Four scores of a row.
fn four(at: u32) -> vec4f {
    return vec4f(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
}

// Four of a step's statistics.
fn of_queries(at: u32) -> vec4f {
    return vec4f(statistics[at], statistics[at + 1u], statistics[at + 2u], statistics[at + 3u]);
}

// First element of the quads of this invocation in its row of a step; the others follow every 4·SHARE.
fn own(lane: u32) -> u32 {
    return lane % SHARE * 4u;
}

// This invocation's scores, or their gradients.
fn own_scores(lane: u32) -> Values {
    var values: Values;
    for (var i = 0u; i < OWN; i++) {
        values[i] = four(lane / SHARE * SCORE_PITCH + own(lane) + i * 4u * SHARE);
    }
    return values;
}

// Stores quad i of this invocation's weights, as part of the rows at `at`.
fn stage_weights(at: u32, lane: u32, i: u32, weights: Quad) {
    store_quad(at + lane / SHARE * OTHER_PITCH + lane % SHARE + i * SHARE, weights);
}

// Stores 2 to the power of the scaled scores minus the peak. Returns the sum.
fn stage_powers(lane: u32, values: Values, factor: f32, peak: f32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < OWN; i++) {
        let p = exp2(fma(values[i], vec4f(factor), vec4f(-peak)));
        sum += (p.x + p.y) + (p.z + p.w);
        stage_weights(STRAIGHT_AT, lane, i, Quad(p));
    }
    return sum;
}

// Rounds to f16. If a value is beyond the largest f16, it becomes infinity, as in pack, and the others are wrong.
fn rounded(values: vec4f) -> Quad {
    let most = max(max(abs(values.x), abs(values.y)), max(abs(values.z), abs(values.w)));
    return Quad(values) * select(1.0h, 65504.0h, most > 65504.0);
}

// True for the rows of the other side in quad i of this invocation that exist.
fn exist(lane: u32, i: u32, start: u32) -> vec4<bool> {
    return start + own(lane) + i * 4u * SHARE + vec4u(0u, 1u, 2u, 3u) < vec4u(params.tokens);
}

@compute @workgroup_size(THREADS)
fn attention_forward(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let group = place_of(workgroup);
    let row = group.x * ROWS + lane / SHARE;
    // First row of this subgroup. Subgroups without a block repeat the last one, with the same result.
    let block = min(subgroup, BLOCKS - 1u) * SIDE;
    let factor = params.scale * LOG2E;

    stage_own_qkv(group, lane, 0u);
    workgroupBarrier();
    var queries = array<Left, ALONG_HEAD>();
    var sums = array<Sums, ALONG_HEAD>();
    for (var d = 0u; d < ALONG_HEAD; d++) {
        queries[d] = left(block * PITCH + d * SIDE / 4u, PITCH);
        sums[d] = Sums();
    }
    if (lane == 0u) {
        is_raised = vec4u(0u);
    }
    workgroupBarrier();

    var held: array<Square, MOVES>;
    for (var i = 0u; i < MOVES; i++) {
        let t = i * THREADS + lane;
        held[i] = fetch_qkv(group, 1u + t / SQUARES % 2u, square(t).x, square(t).y);
    }
    // log₂ of the factor that its weights are divided by, and their sum; `total` covers this invocation's keys alone.
    var peak = -1e30;
    var total = 0.0;
    var product = Sums();
    for (var start = 0u; start < params.tokens; start += STEP) {
        for (var i = 0u; i < MOVES; i++) {
            let t = i * THREADS + lane;
            if (t < SQUARES) {
                stage_straight(STRAIGHT_AT, square(t), held[i]);
            } else if (t < 2u * SQUARES) {
                stage_turned(0u, square(t), held[i]);
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < MOVES; i++) {
            let t = i * THREADS + lane;
            held[i] = fetch_qkv(group, 1u + t / SQUARES % 2u, start + STEP + square(t).x, square(t).y);
        }
        for (var j = 0u; j < ALONG_STEP; j++) {
            product = Sums();
            for (var d = 0u; d < ALONG_HEAD; d++) {
                let keys = right(STRAIGHT_AT + j * SIDE * PITCH + d * SIDE / 4u, PITCH);
                product = coopMultiplyAdd(queries[d], keys, product);
            }
            store_scores(product, block, j);
        }
        workgroupBarrier();

        var values = own_scores(lane);
        if (start + STEP > params.tokens) {
            for (var i = 0u; i < OWN; i++) {
                values[i] = select(vec4f(-1e30), values[i], exist(lane, i, start));
            }
        }
        var highest = -1e30;
        for (var i = 0u; i < OWN; i++) {
            let value = values[i];
            highest = max(highest, max(max(value.x, value.y), max(value.z, value.w)));
        }
        highest *= factor;
        var sum = stage_powers(lane, values, factor, peak);
        if (highest > peak + LIMIT) {
            is_raised = vec4u(1u);
        }
        if (workgroupUniformLoad(&is_raised).x != 0u) {
            scores[lane] = highest;
            if (lane == 0u) {
                is_raised = vec4u(0u);
            }
            workgroupBarrier();
            for (var i = 0u; i < SHARE; i++) {
                highest = max(highest, scores[lane / SHARE * SHARE + i]);
            }
            let old = peak;
            if (highest > peak + LIMIT) {
                peak = highest - START;
            }
            let shrink = exp2(old - peak);
            total *= shrink;
            sum = stage_powers(lane, values, factor, peak);
            for (var d = 0u; d < ALONG_HEAD; d++) {
                workgroupBarrier();
                store_scores(sums[d], block, 0u);
                workgroupBarrier();
                for (var i = lane % SHARE; i < SIDE; i += SHARE) {
                    scores[lane / SHARE * SCORE_PITCH + i] *= shrink;
                }
                workgroupBarrier();
                sums[d] = load_scores(block);
            }
            workgroupBarrier();
        }
        total += sum;
        for (var j = 0u; j < ALONG_STEP; j++) {
            let weights = left(STRAIGHT_AT + block * OTHER_PITCH + j * SIDE / 4u, OTHER_PITCH);
            for (var d = 0u; d < ALONG_HEAD; d++) {
                sums[d] = coopMultiplyAdd(weights, right(d * SIDE * OTHER_PITCH + j * SIDE / 4u, OTHER_PITCH), sums[d]);
            }
        }
        workgroupBarrier();
    }

    scores[lane] = total;
    workgroupBarrier();
    total = 0.0;
    for (var i = 0u; i < SHARE; i++) {
        total += scores[lane / SHARE * SHARE + i];
    }
    if (KEEP_LSE && lane % SHARE == 0u && row < params.tokens) {
        lse[(group.z * params.heads + group.y) * params.tokens + row] = (peak + log2(total)) * LN2;
    }
    for (var d = 0u; d < ALONG_HEAD; d++) {
        workgroupBarrier();
        store_scores(sums[d], block, 0u);
        workgroupBarrier();
        if (row < params.tokens) {
            for (var i = lane % SHARE; i < SIDE / 4u; i += SHARE) {
                let at = dout_row(group, row) + d * SIDE / 4u + i;
                out[at] = pack(four(lane / SHARE * SCORE_PITCH + i * 4u) / total);
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn attention_dq(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let group = place_of(workgroup);
    let row = group.x * ROWS + lane / SHARE;
    let block = min(subgroup, BLOCKS - 1u) * SIDE;
    let factor = params.scale * LOG2E;
    let at = (group.z * params.heads + group.y) * params.tokens + min(row, params.tokens - 1u);

    var queries = array<Left, ALONG_HEAD>();
    var gradients = array<Left, ALONG_HEAD>();
    var sums = array<Sums, ALONG_HEAD>();
    stage_own_qkv(group, lane, 0u);
    workgroupBarrier();
    for (var d = 0u; d < ALONG_HEAD; d++) {
        queries[d] = left(block * PITCH + d * SIDE / 4u, PITCH);
    }
    workgroupBarrier();
    stage_own_dout(group, lane);
    workgroupBarrier();
    for (var d = 0u; d < ALONG_HEAD; d++) {
        gradients[d] = left(block * PITCH + d * SIDE / 4u, PITCH);
        sums[d] = Sums();
    }
    workgroupBarrier();

    var product = Sums();
    for (var start = 0u; start < params.tokens; start += STEP) {
        for (var i = 0u; i < MOVES; i++) {
            let t = i * THREADS + lane;
            let found = fetch_qkv(group, 1u + t / SQUARES % 2u, start + square(t).x, square(t).y);
            if (t < SQUARES) {
                stage_straight(STRAIGHT_AT, square(t), found);
                stage_turned(0u, square(t), found);
            } else if (t < 2u * SQUARES) {
                stage_straight(STRAIGHT_AT + STRAIGHT, square(t), found);
            }
        }
        workgroupBarrier();
        for (var j = 0u; j < ALONG_STEP; j++) {
            product = Sums();
            for (var d = 0u; d < ALONG_HEAD; d++) {
                let other = right(STRAIGHT_AT + j * SIDE * PITCH + d * SIDE / 4u, PITCH);
                product = coopMultiplyAdd(queries[d], other, product);
            }
            store_scores(product, block, j);
        }
        workgroupBarrier();
        let peak = fma(kept_lse[at], LOG2E, -SHIFT);
        var values = own_scores(lane);
        for (var i = 0u; i < OWN; i++) {
            values[i] = exp2(fma(values[i], vec4f(factor), vec4f(-peak)));
        }
        if (start + STEP > params.tokens) {
            for (var i = 0u; i < OWN; i++) {
                values[i] = select(vec4f(), values[i], exist(lane, i, start));
            }
        }
        workgroupBarrier();
        for (var j = 0u; j < ALONG_STEP; j++) {
            product = Sums();
            for (var d = 0u; d < ALONG_HEAD; d++) {
                let other = right(STRAIGHT_AT + STRAIGHT + j * SIDE * PITCH + d * SIDE / 4u, PITCH);
                product = coopMultiplyAdd(gradients[d], other, product);
            }
            store_scores(product, block, j);
        }
        workgroupBarrier();
        let delta = kept_delta[at] * exp2(-SHIFT);
        let differences = own_scores(lane);
        for (var i = 0u; i < OWN; i++) {
            let difference = fma(differences[i], vec4f(exp2(-SHIFT)), vec4f(-delta));
            stage_weights(STRAIGHT_AT, lane, i, rounded(values[i] * difference));
        }
        workgroupBarrier();
        for (var j = 0u; j < ALONG_STEP; j++) {
            let weights = left(STRAIGHT_AT + block * OTHER_PITCH + j * SIDE / 4u, OTHER_PITCH);
            for (var d = 0u; d < ALONG_HEAD; d++) {
                sums[d] = coopMultiplyAdd(weights, right(d * SIDE * OTHER_PITCH + j * SIDE / 4u, OTHER_PITCH), sums[d]);
            }
        }
        workgroupBarrier();
    }

    for (var d = 0u; d < ALONG_HEAD; d++) {
        workgroupBarrier();
        store_scores(sums[d], block, 0u);
        workgroupBarrier();
        if (row < params.tokens) {
            for (var i = lane % SHARE; i < SIDE / 4u; i += SHARE) {
                let at = qkv_row(group, 0u, row) + d * SIDE / 4u + i;
                dqkv[at] = pack(params.scale * four(lane / SHARE * SCORE_PITCH + i * 4u));
            }
        }
    }
}

@compute @workgroup_size(THREADS)
fn attention_dkv(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let group = place_of(workgroup);
    let row = group.x * ROWS + lane / SHARE;
    let block = min(subgroup, BLOCKS - 1u) * SIDE;
    let factor = params.scale * LOG2E;
    let statistics_at = (group.z * params.heads + group.y) * params.tokens;

    var keys = array<Left, ALONG_HEAD>();
    var values = array<Left, ALONG_HEAD>();
    var k_sums = array<Sums, ALONG_HEAD>();
    var v_sums = array<Sums, ALONG_HEAD>();
    stage_own_qkv(group, lane, 1u);
    workgroupBarrier();
    for (var d = 0u; d < ALONG_HEAD; d++) {
        keys[d] = left(block * PITCH + d * SIDE / 4u, PITCH);
        k_sums[d] = Sums();
    }
    workgroupBarrier();
    stage_own_qkv(group, lane, 2u);
    workgroupBarrier();
    for (var d = 0u; d < ALONG_HEAD; d++) {
        values[d] = left(block * PITCH + d * SIDE / 4u, PITCH);
        v_sums[d] = Sums();
    }
    workgroupBarrier();

    var product = Sums();
    for (var start = 0u; start < params.tokens; start += STEP) {
        for (var i = 0u; i < MOVES; i++) {
            let t = i * THREADS + lane;
            let found = fetch_query(group, t, start);
            if (t < 2u * SQUARES) {
                stage_straight(STRAIGHT_AT + t / SQUARES * STRAIGHT, square(t), found);
                stage_turned(t / SQUARES * TURNED, square(t), found);
            }
        }
        for (var t = lane; t < STEP; t += THREADS) {
            let at = statistics_at + min(start + t, params.tokens - 1u);
            statistics[t] = fma(kept_lse[at], LOG2E, -SHIFT);
            statistics[STEP + t] = kept_delta[at] * exp2(-SHIFT);
        }
        workgroupBarrier();
        for (var j = 0u; j < ALONG_STEP; j++) {
            product = Sums();
            for (var d = 0u; d < ALONG_HEAD; d++) {
                let other = right(STRAIGHT_AT + j * SIDE * PITCH + d * SIDE / 4u, PITCH);
                product = coopMultiplyAdd(keys[d], other, product);
            }
            store_scores(product, block, j);
        }
        workgroupBarrier();
        var probabilities = own_scores(lane);
        for (var i = 0u; i < OWN; i++) {
            let peak = of_queries(own(lane) + i * 4u * SHARE);
            probabilities[i] = exp2(fma(probabilities[i], vec4f(factor), -peak));
        }
        if (start + STEP > params.tokens) {
            for (var i = 0u; i < OWN; i++) {
                probabilities[i] = select(vec4f(), probabilities[i], exist(lane, i, start));
            }
        }
        workgroupBarrier();
        for (var j = 0u; j < ALONG_STEP; j++) {
            product = Sums();
            for (var d = 0u; d < ALONG_HEAD; d++) {
                let other = right(STRAIGHT_AT + STRAIGHT + j * SIDE * PITCH + d * SIDE / 4u, PITCH);
                product = coopMultiplyAdd(values[d], other, product);
            }
            store_scores(product, block, j);
        }
        workgroupBarrier();
        let differences = own_scores(lane);
        for (var i = 0u; i < OWN; i++) {
            let delta = of_queries(STEP + own(lane) + i * 4u * SHARE);
            let difference = fma(differences[i], vec4f(exp2(-SHIFT)), -delta);
            stage_weights(STRAIGHT_AT, lane, i, Quad(probabilities[i]));
            stage_weights(STRAIGHT_AT + WEIGHTS, lane, i, rounded(probabilities[i] * difference));
        }
        workgroupBarrier();
        for (var j = 0u; j < ALONG_STEP; j++) {
            let p = left(STRAIGHT_AT + block * OTHER_PITCH + j * SIDE / 4u, OTHER_PITCH);
            let ds = left(STRAIGHT_AT + WEIGHTS + block * OTHER_PITCH + j * SIDE / 4u, OTHER_PITCH);
            for (var d = 0u; d < ALONG_HEAD; d++) {
                let at = d * SIDE * OTHER_PITCH + j * SIDE / 4u;
                k_sums[d] = coopMultiplyAdd(ds, right(at, OTHER_PITCH), k_sums[d]);
                v_sums[d] = coopMultiplyAdd(p, right(TURNED + at, OTHER_PITCH), v_sums[d]);
            }
        }
        workgroupBarrier();
    }

    for (var d = 0u; d < ALONG_HEAD; d++) {
        for (var operand = 1u; operand < 3u; operand++) {
            workgroupBarrier();
            if (operand == 1u) {
                store_scores(k_sums[d], block, 0u);
            } else {
                store_scores(v_sums[d], block, 0u);
            }
            workgroupBarrier();
            if (row < params.tokens) {
                let scale = select(exp2(-SHIFT), params.scale, operand == 1u);
                for (var i = lane % SHARE; i < SIDE / 4u; i += SHARE) {
                    let at = qkv_row(group, operand, row) + d * SIDE / 4u + i;
                    dqkv[at] = pack(scale * four(lane / SHARE * SCORE_PITCH + i * 4u));
                }
            }
        }
    }
}
