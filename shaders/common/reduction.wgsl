// Helper: sum and maximum of one value per invocation over a workgroup of LANES invocations (a power of two).
// The reduction is a fixed tree: the order of summation depends on LANES alone. Every invocation receives the result.

var<workgroup> partial_sums: array<f32, LANES>;

fn workgroup_sum(lane: u32, value: f32) -> f32 {
    partial_sums[lane] = value;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width = width / 2u) {
        if (lane < width) {
            partial_sums[lane] = partial_sums[lane] + partial_sums[lane + width];
        }
        workgroupBarrier();
    }
    let sum = partial_sums[0];
    // No invocation may start the next reduction before all have read this result.
    workgroupBarrier();
    return sum;
}

fn workgroup_max(lane: u32, value: f32) -> f32 {
    partial_sums[lane] = value;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width = width / 2u) {
        if (lane < width) {
            partial_sums[lane] = max(partial_sums[lane], partial_sums[lane + width]);
        }
        workgroupBarrier();
    }
    let most = partial_sums[0];
    workgroupBarrier();
    return most;
}
