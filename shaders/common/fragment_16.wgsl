// Helper: fragments of 16 × 16, as Vulkan's drivers have them. Loaded from quads: drivers load as much at once as a pointer
// points to, RADV for one.

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

alias Element = Quad;
const EACH = 4u;
