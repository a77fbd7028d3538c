//! Measures every kernel against the adapter's roofs: `cargo bench --bench kernels [FILTER]`. `lat-wgpu bench` measures
//! the same rows, and can also save, draw and compare them.

use lat_wgpu::bench::report::Report;
use lat_wgpu::bench::{Options, run};
use lat_wgpu::error::Result;
use lat_wgpu::gpu::{Context, ContextOptions};
use lat_wgpu::observer::{Follower, Observer};

/// Prints the name of the next row.
struct Progress;

impl Observer for Progress {
    fn progress(&self, name: &str, done: usize, total: usize) {
        eprintln!("{done} of {total} rows done; next: {name}");
    }
}

impl Follower<Report> for Progress {
    fn event(&self, _: Report) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let context = Context::open(&ContextOptions::from_environment(None)).expect("an adapter");
    // `cargo bench` adds flags of its own. The first other argument is the filter.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let options = Options { filter: &filter, ..Options::default() };
    let report = run(&context, options, &Progress);
    print!("{}", report.expect("figures").table());
}
