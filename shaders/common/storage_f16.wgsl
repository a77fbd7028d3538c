// Helper: how weights and activations lie in memory, half precision on adapters that know f16: four values of a row are
// four f16.
//
// A value beyond f16's largest, 65504, becomes f16's infinity, whatever the adapter's conversion makes of it; so does NaN:
// losses, gradients and vectors are asked later whether they are finite.

alias Quad = vec4<f16>;

fn unpack(quad: Quad) -> vec4f {
    return vec4f(quad);
}

fn pack(values: vec4f) -> Quad {
    let halves = vec4<f16>(clamp(values, vec4f(-65504.0), vec4f(65504.0)));
    // By bits: adapters may assume that no float is infinite or NaN.
    let beyond = (bitcast<vec4u>(values) & vec4u(0x7fffffffu)) > vec4u(bitcast<u32>(65504.0));
    // There is no literal for infinity; the square of the largest is beyond it.
    return select(halves, halves * halves, beyond);
}
