// Helper: fragments of 8 × 8, as Metal has them, which loads them from single halves.

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;

alias Element = f16;
const EACH = 1u;
