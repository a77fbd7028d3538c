// Helper: counter-based random numbers, bit-equal to src/rng.rs. A number depends on (seed, stream, index) alone.
//
//   bits    = add(add(… add(START, seed.x), seed.y …, index.x), index.y)      low word first, then high
//   uniform = (bits >> 8)·2⁻²⁴ in [0, 1), exact in f32
//
// Six words are hashed one after the other. A loop over index.y can keep the hash of the first five.

const RANDOM_START: u32 = 0x9e3779b9u;

fn random_add(hash: u32, word: u32) -> u32 {
    var mixed = hash ^ word;
    mixed = (mixed ^ (mixed >> 16u)) * 0x7feb352du;
    mixed = (mixed ^ (mixed >> 15u)) * 0x846ca68bu;
    mixed = mixed ^ (mixed >> 16u);
    return mixed + 0x85ebca6bu;
}

fn random_stream(seed: vec2u, stream: vec2u) -> u32 {
    return random_add(random_add(random_add(random_add(RANDOM_START, seed.x), seed.y), stream.x), stream.y);
}

fn random_bits(seed: vec2u, stream: vec2u, index: vec2u) -> u32 {
    return random_add(random_add(random_stream(seed, stream), index.x), index.y);
}

fn random_uniform(bits: u32) -> f32 {
    return f32(bits >> 8u) * 0x1p-24;
}
