//! Seeded data: the same numbers on every machine.

use crate::rng;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

/// The numbers of an operand, computed on demand.
pub struct Numbers<'n> {
    /// Count of numbers.
    pub len: usize,
    make: Box<dyn FnOnce() -> Cow<'n, [f32]> + 'n>,
}

impl<'n> Numbers<'n> {
    /// `len` numbers that `make` computes.
    pub fn new(len: usize, make: impl FnOnce() -> Vec<f32> + 'n) -> Self {
        Numbers { len, make: Box::new(|| Cow::Owned(make())) }
    }

    /// Applies `change` to each number.
    pub fn map(self, change: impl Fn(f32) -> f32 + 'n) -> Self {
        Numbers::new(self.len, || self.make().into_iter().map(change).collect())
    }

    /// Computes the numbers.
    pub fn make(self) -> Vec<f32> {
        (self.make)().into_owned()
    }
}

impl<'n> From<&'n [f32]> for Numbers<'n> {
    fn from(numbers: &'n [f32]) -> Self {
        Numbers { len: numbers.len(), make: Box::new(|| Cow::Borrowed(numbers)) }
    }
}

impl<'n> From<&'n Vec<f32>> for Numbers<'n> {
    fn from(numbers: &'n Vec<f32>) -> Self {
        numbers[..].into()
    }
}

impl From<Vec<f32>> for Numbers<'_> {
    fn from(numbers: Vec<f32>) -> Self {
        Numbers::new(numbers.len(), || numbers)
    }
}

/// `count` normally distributed values; `stream` separates tensors.
pub fn drawn<'n>(stream: u64, count: usize) -> Numbers<'n> {
    Numbers::new(count, move || normal(stream, count))
}

/// `count` normally distributed values; `stream` separates tensors.
pub fn normal(stream: u64, count: usize) -> Vec<f32> {
    // A case with several ways draws the same numbers again for each, so the latest are kept.
    const KEPT: usize = 8;
    thread_local! {
        static DRAWN: RefCell<VecDeque<(u64, Rc<[f32]>)>> = const { RefCell::new(VecDeque::new()) };
    }
    DRAWN.with_borrow_mut(|drawn| {
        if let Some((_, kept)) = drawn.iter().find(|(of, kept)| *of == stream && kept.len() == count) {
            return kept.to_vec();
        }
        drawn.truncate(KEPT - 1);
        let made: Rc<[f32]> = (0..count as u64).map(|i| rng::normal(1, stream, i) as f32).collect();
        drawn.push_front((stream, made.clone()));
        made.to_vec()
    })
}

/// Normally distributed values times `factor`.
pub fn scaled(stream: u64, count: usize, factor: f32) -> Vec<f32> {
    normal(stream, count).into_iter().map(|v| v * factor).collect()
}

/// Random bytes.
pub fn bytes(stream: u64, count: usize) -> Vec<u8> {
    (0..count as u64).map(|i| rng::bits(2, stream, i) as u8).collect()
}

/// All indices below `len`, or about `count` of them with the first and the last.
pub fn sample(len: usize, count: usize) -> Vec<usize> {
    if len <= count {
        return (0..len).collect();
    }
    let drawn = (0..count as u64).map(|i| rng::bits(3, len as u64, i) as usize % len);
    drawn.chain([0, len - 1]).collect::<BTreeSet<_>>().into_iter().collect()
}
