// Helper: the places of a workgroup and of rows for attention.wgsl and attention_cooperative.wgsl.

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
