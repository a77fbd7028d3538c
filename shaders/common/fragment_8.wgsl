// Helper: fragments of 8 × 8, the size that Metal offers. Metal loads them from single f16 elements.

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;

alias Element = f16;
const EACH = 1u;
