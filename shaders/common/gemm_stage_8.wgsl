// Helper: how gemm_cooperative.wgsl puts four halves into its stage, an array of halves for fragments of 8 × 8.

// Puts four halves at half `at` of the stage.
fn stage(at: u32, quad: Quad) {
    staged[at] = quad.x;
    staged[at + 1u] = quad.y;
    staged[at + 2u] = quad.z;
    staged[at + 3u] = quad.w;
}
