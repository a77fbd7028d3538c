// Helper: staging in workgroup memory for gemm_cooperative.wgsl with fragments of 8 × 8: an array of f16.

// Stores four f16 from element `at` of the stage on.
fn stage(at: u32, quad: Quad) {
    staged[at] = quad.x;
    staged[at + 1u] = quad.y;
    staged[at + 2u] = quad.z;
    staged[at + 3u] = quad.w;
}
