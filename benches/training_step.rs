//! Whole training steps: `cargo bench --bench training_step [FILTER]`. `lat-wgpu bench --steps` measures the same rows
//! and can also write them, with another batch or precision.

use lat_wgpu::bench::steps::{Report, run};
use lat_wgpu::bench::{Options, Watch};
use lat_wgpu::error::Result;
use lat_wgpu::gpu::{Context, ContextOptions};

struct Printed;

impl Watch<Report> for Printed {
    fn next(&mut self, done: usize, of: usize, name: &str) -> Result<()> {
        eprintln!("{done} of {of} rows done; next: {name}");
        Ok(())
    }
}

fn main() {
    let context = Context::open(&ContextOptions::from_environment(None)).expect("an adapter");
    // `cargo bench` passes flags of its own; a word is a filter.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let options = Options { filter: &filter, ..Options::default() };
    print!("{}", run(&context, options, &mut Printed).expect("figures").table());
}
