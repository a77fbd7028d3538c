// Helper: storage of weights and activations in half precision, for adapters with f16 in shaders. Four values of a row
// are four f16.
//
// A value beyond the largest f16, 65504, becomes infinity, regardless of how the adapter converts. NaN becomes infinity
// too. Losses, gradients and embeddings are later checked for infinity.

alias Quad = vec4<f16>;

fn unpack(quad: Quad) -> vec4f {
    return vec4f(quad);
}

fn pack(values: vec4f) -> Quad {
    let stored = vec4<f16>(clamp(values, vec4f(-65504.0), vec4f(65504.0)));
    // Tests the bits: compilers may assume that no float is infinite or NaN.
    let beyond = (bitcast<vec4u>(values) & vec4u(0x7fffffffu)) > vec4u(bitcast<u32>(65504.0));
    // WGSL has no literal for infinity. The square of the largest f16 overflows to it.
    return select(stored, stored * stored, beyond);
}
