// Helper: f16 staged in workgroup memory for fragments of 8 × 8. `staged` is an array of f16.

// Stores four f16 from element `at` of the stage on.
fn stage(at: u32, quad: Quad) {
    staged[at] = quad.x;
    staged[at + 1u] = quad.y;
    staged[at + 2u] = quad.z;
    staged[at + 3u] = quad.w;
}

// Loads four f16 from element `at` of the stage on.
fn take(at: u32) -> Quad {
    return Quad(staged[at], staged[at + 1u], staged[at + 2u], staged[at + 3u]);
}

// Stores quad `at` of the stage.
fn store_quad(at: u32, quad: Quad) {
    staged[4u * at] = quad.x;
    staged[4u * at + 1u] = quad.y;
    staged[4u * at + 2u] = quad.z;
    staged[4u * at + 3u] = quad.w;
}

// Loads quad `at` of the stage.
fn load_quad(at: u32) -> Quad {
    return Quad(staged[4u * at], staged[4u * at + 1u], staged[4u * at + 2u], staged[4u * at + 3u]);
}
