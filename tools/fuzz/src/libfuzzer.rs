//! The same entry points under libFuzzer; `LAT_FUZZ_TARGET` names one.

#![no_main]

use lat_fuzz::{Target, target};
use std::sync::OnceLock;

static TARGET: OnceLock<&Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("LAT_FUZZ_TARGET").unwrap_or_default();
        let target = target(&name).expect("LAT_FUZZ_TARGET names no target: see `lat-fuzz list`");
        let _ = TARGET.set(target);
        // libFuzzer's own hook would end the process at a panic that the decoder of images catches. An uncaught panic
        // still ends it.
        std::panic::set_hook(Box::new(|panic| if std::env::var_os("LAT_FUZZ_QUIET").is_none() { eprintln!("{panic}") }));
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.fuzz)(data);
        }
    }
);
