// Helper: how weights and activations lie in memory, half precision on any adapter: four values of a row are two words of
// two f16 each. Who writes owns the whole quad, so no two invocations share a word.
//
// A value beyond f16's largest, 65504, becomes f16's infinity, whatever the adapter's conversion makes of it; so does NaN:
// losses, gradients and vectors are asked later whether they are finite.

alias Quad = vec2u;

fn unpack(quad: Quad) -> vec4f {
    return vec4f(unpack2x16float(quad.x), unpack2x16float(quad.y));
}

fn pack_two(values: vec2f) -> u32 {
    let halves = pack2x16float(clamp(values, vec2f(-65504.0), vec2f(65504.0)));
    // By bits: adapters may assume that no float is infinite or NaN.
    let beyond = (bitcast<vec2u>(values) & vec2u(0x7fffffffu)) > vec2u(bitcast<u32>(65504.0));
    let kept = select(vec2u(0xffffffffu), vec2u(0xffff8000u, 0x8000ffffu), beyond);
    let infinite = select(vec2u(0u), vec2u(0x7c00u, 0x7c000000u), beyond);
    return (halves & kept.x & kept.y) | infinite.x | infinite.y;
}

fn pack(values: vec4f) -> Quad {
    return vec2u(pack_two(values.xy), pack_two(values.zw));
}
