//! Every kernel against the adapter's roofs: `cargo bench --bench kernels [FILTER]`. `lat-wgpu bench` measures the same
//! rows and can also write, draw and compare them.

use lat_wgpu::bench::{Options, run};
use lat_wgpu::gpu::{Context, ContextOptions};

fn main() {
    let context = Context::open(&ContextOptions::from_environment(None)).expect("an adapter");
    // `cargo bench` passes flags of its own; a word is a filter.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let options = Options { filter: &filter, ..Options::default() };
    let report = run(&context, options, &mut |done: usize, of: usize, name: &str| {
        eprintln!("{done} of {of} rows done; next: {name}");
        Ok(())
    });
    print!("{}", report.expect("figures").table());
}
