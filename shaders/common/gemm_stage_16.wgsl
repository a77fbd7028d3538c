// Helper: how gemm_cooperative.wgsl puts four halves into its stage, an array of quads for fragments of 16 × 16.

// Puts four halves at half `at` of the stage.
fn stage(at: u32, quad: Quad) {
    staged[at / 4u] = quad;
}
