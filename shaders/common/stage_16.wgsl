// Helper: f16 staged in workgroup memory for fragments of 16 × 16. `staged` is an array of quads.

// Stores four f16 from element `at` of the stage on.
fn stage(at: u32, quad: Quad) {
    staged[at / 4u] = quad;
}

// Loads four f16 from element `at` of the stage on.
fn take(at: u32) -> Quad {
    return staged[at / 4u];
}

// Stores quad `at` of the stage.
fn store_quad(at: u32, quad: Quad) {
    staged[at] = quad;
}

// Loads quad `at` of the stage.
fn load_quad(at: u32) -> Quad {
    return staged[at];
}
