// Helper: the sum, or the largest, of one value per invocation over a workgroup of LANES invocations (a power of two).
// A fixed tree: the order of summation depends on LANES alone. Every invocation gets the result.

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
    // No lane may start the next sum before all have read this one.
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
