// Helper: staging in workgroup memory for gemm_cooperative.wgsl with fragments of 16 × 16: an array of quads.

// Stores four f16 from element `at` of the stage on.
fn stage(at: u32, quad: Quad) {
    staged[at / 4u] = quad;
}
