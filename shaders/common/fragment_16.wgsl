// Helper: fragments of 16 × 16, the size that Vulkan drivers offer. They are loaded from quads, because some drivers
// (RADV) load as many bytes at once as one element of the pointer has.

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

alias Element = Quad;
const EACH = 4u;
