//! Panics of other libraries, caught and returned as `None`.
//!
//! wgpu panics if its device is gone, and an image decoder may panic on damaged bytes. The program reports an error
//! about that adapter or that file and goes on.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IS_CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; `None` if it panics.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = IS_CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    IS_CATCHING.set(before);
    result.ok()
}

/// From now on prints no message for a panic inside [`catch_panic`]: the error that follows describes it. Other panics
/// are printed as before.
pub fn silence_caught_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !IS_CATCHING.get() {
            usual(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_no_result() {
        assert_eq!(catch_panic(|| 7), Some(7));
        assert_eq!(catch_panic(|| -> i32 { panic!("a decoder gave up") }), None);
        assert!(!IS_CATCHING.get());
    }
}
