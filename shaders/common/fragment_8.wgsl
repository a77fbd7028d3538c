// Helper: fragments of 8 × 8, as Metal has them, which loads them from single halves.

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;

alias Element = f16;
const EACH = 1u;

// Puts four halves at half `at` of the stage.
fn stage(at: u32, quad: Quad) {
    staged[at] = quad.x;
    staged[at + 1u] = quad.y;
    staged[at + 2u] = quad.z;
    staged[at + 3u] = quad.w;
}
