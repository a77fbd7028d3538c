// Helper: f16 staged in workgroup memory for fragments of 8 × 8. `staged` is an array of f16.

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
