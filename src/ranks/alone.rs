//! A program without MPI.

use crate::error::{Error, Result};

/// The processes that work together. There are none without the feature `mpi`, so this type has no value.
#[derive(Debug, Clone, Copy)]
pub enum Ranks {}

/// Variables in which launchers pass the number of processes.
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

impl Ranks {
    /// Joins the other processes; there are none.
    ///
    /// # Errors
    /// [`Error::Usage`] if a launcher of MPI started several processes, which would all do the same work.
    pub fn join() -> Result<Option<Ranks>> {
        let sizes = SIZES.iter().filter_map(|name| std::env::var(name).ok()?.parse::<usize>().ok());
        match sizes.max() {
            Some(size) if size > 1 => Err(Error::Usage(format!(
                "{size} processes were started together, but this program works alone"
            ))
            .hinted("build one that joins them: cargo build --release --features mpi")),
            _ => Ok(None),
        }
    }

    /// Number of this process.
    pub fn rank(&self) -> usize {
        match *self {}
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        match *self {}
    }

    /// Number of this process among those of its machine.
    pub fn local_rank(&self) -> usize {
        match *self {}
    }

    /// Fails if another rank has an error.
    ///
    /// # Errors
    /// None.
    pub fn compare<T>(&self, _: &Result<T>) -> Result<()> {
        match *self {}
    }

    /// Returns true if all ranks know of the error.
    pub fn is_known(&self, _: &Error) -> bool {
        match *self {}
    }

    /// Collects values of all ranks.
    ///
    /// # Errors
    /// None.
    pub fn gather<T>(&self, _: &[T]) -> Result<Vec<T>> {
        match *self {}
    }

    /// Collects values of each rank.
    ///
    /// # Errors
    /// None.
    pub fn gather_each<T>(&self, _: &[T]) -> Result<Vec<Vec<T>>> {
        match *self {}
    }

    /// Sums values of ranks in their order.
    ///
    /// # Errors
    /// None.
    pub fn sum(&self, _: &mut [f32], _: usize) -> Result<()> {
        match *self {}
    }

    /// Ends the process and all others.
    pub fn abort(&self, _: u8) -> ! {
        match *self {}
    }
}
