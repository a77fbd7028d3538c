//! A chain of kernels as a plan: sharing memory between tensors, and its earlier content, must not change the result.

use crate::common::random::{normal, scaled};
use crate::common::{assert_same_bits, context};
use lat_wgpu::gpu::{Buffer, Phase, Plan, Recorder, Tensor};
use lat_wgpu::kernels::part_linear::Layout;
use lat_wgpu::kernels::{attention, gelt, gemm, l2norm, layernorm};
use lat_wgpu::shape::Activation;

const BATCH: usize = 2;
const TOKENS: usize = 1 + 3 * 5;
const HEADS: usize = 2;
const HEAD_DIM: usize = 12;
const DIM: usize = HEADS * HEAD_DIM;
const HIDDEN: usize = 4 * DIM;
const ROWS: usize = BATCH * TOKENS;
const OUT: usize = BATCH * 3 * DIM;

/// Records two transformer blocks and an embedding. `tensor` makes the intermediate tensors.
fn record(
    recorder: &mut Recorder<'_>,
    out: &Buffer,
    tensor: impl Fn(&mut Recorder<'_>, &str, usize) -> Tensor,
) {
    let weight = |recorder: &mut Recorder<'_>, stream, len| {
        let buffer = recorder.context.upload("weight", &scaled(stream, len, 0.3)).unwrap();
        recorder.import(&buffer)
    };
    let mut x = weight(recorder, 1, ROWS * DIM);
    for block in 0..2 {
        recorder.scope(Phase::Forward, format!("block {block}"));
        let stream = 10 * (block + 1);
        let gamma = weight(recorder, stream, DIM);
        let normed = tensor(recorder, "normed", ROWS * DIM);
        let norm = layernorm::Forward {
            x,
            weight: gamma,
            bias: gamma,
            y: normed,
            stats: None,
            rows: ROWS,
            dim: DIM,
            eps: 1e-6,
        };
        norm.record(recorder, "norm");
        let linear = |recorder: &mut Recorder<'_>, name: &str, a, n, k, epilogue| {
            let b = weight(recorder, stream + n as u64, n * k);
            let c = tensor(recorder, name, ROWS * n);
            gemm::Nt { a, b, c, m: ROWS, n, k, epilogue }.record(recorder, name);
            c
        };
        let residual = |residual| gemm::Epilogue { residual: Some(residual), ..Default::default() };
        let qkv = linear(recorder, "qkv", normed, 3 * DIM, DIM, Default::default());
        let mixed = tensor(recorder, "mixed", ROWS * DIM);
        let attention = attention::Forward {
            qkv,
            out: mixed,
            lse: None,
            batch: BATCH,
            tokens: TOKENS,
            heads: HEADS,
            head_dim: HEAD_DIM,
        };
        attention.record(recorder, "attention");
        x = linear(recorder, "proj", mixed, DIM, DIM, residual(x));
        let gelu = gemm::Epilogue { activation: Some(Activation::Gelu), ..Default::default() };
        let hidden = linear(recorder, "fc1", x, HIDDEN, DIM, gelu);
        x = linear(recorder, "fc2", hidden, DIM, HIDDEN, residual(x));
    }
    let parts = tensor(recorder, "parts", OUT);
    let blend = gelt::Forward {
        tokens: x,
        gelt: parts,
        first: 0,
        batch: BATCH,
        prefix: 1,
        parts: 3,
        rows: 3,
        columns: 5,
        dim: DIM,
        weights: (0.25, 0.75),
    };
    blend.record(recorder, "gelt");
    let y = recorder.import(out);
    let layout = Layout::SampleFirst;
    l2norm::Forward { x: parts, y, batch: BATCH, parts: 3, dim: DIM, layout }.record(recorder, "l2norm");
}

fn run(plan: &Plan, out: &Buffer) -> Vec<f32> {
    context().write(out, &[0xff; 4 * OUT]);
    plan.run(context()).unwrap();
    context().read(out).unwrap()
}

#[test]
fn shared_memory_and_its_content_change_nothing() {
    let mut recorder = Recorder::new(context());
    let out = context().buffer("out", OUT).unwrap();
    record(&mut recorder, &out, |recorder, name, len| {
        let buffer = recorder.context.buffer(name, len).unwrap();
        recorder.import(&buffer)
    });
    let apart = recorder.finish().unwrap();
    assert_eq!(apart.summary().heap_bytes, 0);
    let wanted = run(&apart, &out);
    // Two images; l2norm gives each embedding unit length.
    let length: f32 = wanted.iter().map(|v| v * v).sum();
    assert!((length - BATCH as f32).abs() < 1e-5, "{length}");

    let mut recorder = Recorder::new(context());
    record(&mut recorder, &out, |recorder, name, len| recorder.tensor(name, len));
    let announced = recorder.summary();
    let shared = recorder.finish().unwrap();
    assert_eq!(*shared.summary(), announced);
    assert!(announced.heap_bytes < announced.unshared_bytes, "nothing is shared: {announced:?}");
    assert_eq!(announced.dispatches, apart.dispatches.len());
    for pattern in [0, 0x7fc0_0bad, 0x7f80_0000, u32::MAX] {
        shared.fill_heaps(context(), pattern);
        assert_same_bits(&format!("memory filled with {pattern:x}"), &wanted, &run(&shared, &out));
    }
    assert_same_bits("memory as the last run left it", &wanted, &run(&shared, &out));
}

#[test]
fn a_plan_reads_what_was_written_after_it_was_made() {
    let data = normal(1, 7 * 24);
    let mut recorder = Recorder::new(context());
    let (input, out) =
        (context().buffer("x", data.len()).unwrap(), context().buffer("y", data.len()).unwrap());
    let (x, y) = (recorder.import(&input), recorder.import(&out));
    let layout = Layout::SampleFirst;
    l2norm::Forward { x, y, batch: 1, parts: 7, dim: 24, layout }.record(&mut recorder, "l2norm");
    let plan = recorder.finish().unwrap();
    plan.run(context()).unwrap();
    assert!(context().read(&out).unwrap().iter().all(|v| *v == 0.0));
    context().write(&input, &data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    plan.run(context()).unwrap();
    assert!(context().read(&out).unwrap().iter().all(|v| *v != 0.0));
}
