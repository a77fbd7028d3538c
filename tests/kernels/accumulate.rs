//! accumulate against the reference.

use crate::common::compare::compare;
use crate::common::guard::Guarded;
use crate::common::random::normal;
use crate::common::tolerance;
use lat_wgpu::kernels::accumulate::Accumulate;
use lat_wgpu::reference::accumulate as reference;

#[test]
fn one_primes_and_around_a_workgroup() {
    for len in [1, 2, 7, 63, 64, 65, 127, 4_099] {
        let (sum, addend) = (normal(1, len), normal(2, len));
        let name = format!("accumulate {len}");
        let mut run = Guarded::new(&name);
        let addend_of = run.input("addend", &addend);
        let sum_of = run.in_place("sum", &sum);
        Accumulate { addend: addend_of, sum: sum_of }.record(&mut run.recorder, "accumulate");
        let wanted = (0..len).map(|i| (i, reference::forward(sum[i], addend[i])));
        compare(&name, &run.run()[0], wanted, tolerance::ACCUMULATE);
    }
}
