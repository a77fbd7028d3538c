// Helper: storage of weights and activations in full precision. Four values of a row are four f32.

alias Quad = vec4f;

fn unpack(quad: Quad) -> vec4f {
    return quad;
}

fn pack(values: vec4f) -> Quad {
    return values;
}
