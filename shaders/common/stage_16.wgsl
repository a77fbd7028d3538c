// Helper: f16 staged in workgroup memory for fragments of 16 × 16. `staged` is an array of quads.

// Stores quad `at` of the stage.
fn store_quad(at: u32, quad: Quad) {
    staged[at] = quad;
}

// Loads quad `at` of the stage.
fn load_quad(at: u32) -> Quad {
    return staged[at];
}
