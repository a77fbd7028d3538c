// Helper: storage of weights and activations in half precision, for any adapter. Four values of a row are two words of
// two f16 each. One invocation writes a whole quad, so no two invocations share a word.
//
// A value beyond the largest f16, 65504, becomes infinity, regardless of how the adapter converts. NaN becomes infinity
// too. Losses, gradients and embeddings are later checked for infinity.

alias Quad = vec2u;

fn unpack(quad: Quad) -> vec4f {
    return vec4f(unpack2x16float(quad.x), unpack2x16float(quad.y));
}

fn pack_two(values: vec2f) -> u32 {
    let stored = pack2x16float(clamp(values, vec2f(-65504.0), vec2f(65504.0)));
    // Tests the bits: compilers may assume that no float is infinite or NaN.
    let beyond = (bitcast<vec2u>(values) & vec2u(0x7fffffffu)) > vec2u(bitcast<u32>(65504.0));
    let kept = select(vec2u(0xffffffffu), vec2u(0xffff8000u, 0x8000ffffu), beyond);
    let infinite = select(vec2u(0u), vec2u(0x7c00u, 0x7c000000u), beyond);
    return (stored & kept.x & kept.y) | infinite.x | infinite.y;
}

fn pack(values: vec4f) -> Quad {
    return vec2u(pack_two(values.xy), pack_two(values.zw));
}
