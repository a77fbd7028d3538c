//! Processes that MPI connects.

use super::piece;
use crate::error::{Error, Result};
use ferrompi::{Communicator, Mpi, MpiDatatype, ThreadLevel};
use std::sync::atomic::{AtomicBool, Ordering};

/// The processes that work together. MPI ends when this is dropped.
pub struct Ranks {
    world: Communicator,
    rank: usize,
    size: usize,
    local_rank: usize,
    /// True once an error of any rank is known to all.
    failed: AtomicBool,
    _mpi: Mpi,
}

/// Variables that launchers of MPI set in each process.
const LAUNCHED: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"];

impl Ranks {
    /// Joins the processes that were started together; `None` for a process that no launcher of MPI started, or that
    /// is alone.
    ///
    /// # Errors
    /// [`Error::Rank`] if MPI can't begin.
    pub fn join() -> Result<Option<Ranks>> {
        if LAUNCHED.iter().all(|name| std::env::var_os(name).is_none()) {
            return Ok(None);
        }
        let begun = || {
            let mpi = Mpi::init_thread(ThreadLevel::Funneled)?;
            let world = mpi.world();
            let local = world.split_shared()?.rank();
            Ok((mpi, world, local))
        };
        let (mpi, world, local) = begun().map_err(|error: ferrompi::Error| failed(0, &error))?;
        let [rank, size, local_rank] = [world.rank(), world.size(), local].map(|number| number as usize);
        Ok((size > 1).then(|| Ranks {
            world,
            rank,
            size,
            local_rank,
            failed: AtomicBool::default(),
            _mpi: mpi,
        }))
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes, 2 or more.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of this process among those of its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Fails if another rank has an error and this one has none. Every rank must call it at the same point of its work.
    ///
    /// # Errors
    /// [`Error::Rank`] with the first error of all ranks.
    pub fn compare<T>(&self, result: &Result<T>) -> Result<()> {
        let own = result
            .as_ref()
            .err()
            .map_or(Vec::new(), |error| [&[error.exit_code()], error.with_causes().as_bytes()].concat());
        let all = self.gather_each(&own)?;
        let Some((rank, [code, text @ ..])) =
            all.iter().map(Vec::as_slice).enumerate().find(|(_, it)| !it.is_empty())
        else {
            return Ok(());
        };
        self.failed.store(true, Ordering::Relaxed);
        match result {
            Err(_) => Ok(()),
            Ok(_) => {
                Err(Error::Rank { rank, message: String::from_utf8_lossy(text).into_owned(), code: *code })
            }
        }
    }

    /// Returns true if all ranks know of the error: it is that of [`Self::compare`], or the adapters of all ranks found
    /// it in the same step.
    pub fn is_known(&self, error: &Error) -> bool {
        self.failed.load(Ordering::Relaxed) || matches!(error.plain(), Error::NotFinite { .. })
    }

    /// Returns the values of all ranks in their order. Every rank must call it at the same point of its work.
    ///
    /// # Errors
    /// [`Error::Rank`] if MPI fails.
    pub fn gather<T: MpiDatatype + Default>(&self, own: &[T]) -> Result<Vec<T>> {
        Ok(self.gathered(own)?.0)
    }

    /// As [`Self::gather`], with the values of each rank by themselves.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn gather_each<T: MpiDatatype + Default>(&self, own: &[T]) -> Result<Vec<Vec<T>>> {
        let (all, counts) = self.gathered(own)?;
        let mut all = all.into_iter();
        Ok(counts.into_iter().map(|count| all.by_ref().take(count).collect()).collect())
    }

    /// Returns the values of all ranks in their order, and the number of values of each.
    fn gathered<T: MpiDatatype + Default>(&self, own: &[T]) -> Result<(Vec<T>, Vec<usize>)> {
        let mut counts = vec![0; self.size];
        self.done(self.world.allgather(&[own.len() as u64], &mut counts))?;
        let total = counts.iter().sum::<u64>();
        if i32::try_from(total).is_err() {
            return Err(Error::TooLarge(format!("{total} values are more than MPI gathers")));
        }
        let mut all = vec![T::default(); total as usize];
        if total > 0 {
            let counts: Vec<i32> = counts.iter().map(|&count| count as i32).collect();
            let starts: Vec<i32> =
                counts.iter().scan(0, |end, count| Some(std::mem::replace(end, *end + count))).collect();
            self.done(self.world.allgatherv(own, &mut all, &counts, &starts))?;
        }
        Ok((all, counts.into_iter().map(|count| count as usize).collect()))
    }

    /// Replaces values by their sums over the first `terms` ranks, added in the order of the ranks: each rank adds a
    /// piece, and all gather the pieces. Every rank must call it at the same point of its work. Keeps subnormal sums,
    /// which an adapter may flush to zero.
    ///
    /// # Errors
    /// [`Error::Rank`] if MPI fails.
    pub fn sum(&self, values: &mut [f32], terms: usize) -> Result<()> {
        let pieces: Vec<_> = (0..self.size).map(|rank| piece(values.len(), rank, self.size)).collect();
        let starts: Vec<i32> = pieces.iter().map(|piece| piece.start as i32).collect();
        let counts: Vec<i32> = pieces.iter().map(|piece| piece.len() as i32).collect();
        let own = &pieces[self.rank];
        let sent = if self.rank < terms { counts.clone() } else { vec![0; self.size] };
        let received: Vec<i32> =
            (0..self.size).map(|rank| if rank < terms { own.len() as i32 } else { 0 }).collect();
        let places: Vec<i32> = (0..self.size).map(|rank| (rank.min(terms) * own.len()) as i32).collect();
        let mut shares = vec![0.0; terms * own.len()];
        self.done(self.world.alltoallv(values, &sent, &starts, &mut shares, &received, &places))?;
        let (sums, others) = shares.split_at_mut(own.len());
        for others in others.chunks(own.len().max(1)) {
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        }
        self.done(self.world.allgatherv(sums, values, &counts, &starts))
    }

    /// Ends the process and all others.
    pub fn abort(&self, code: u8) -> ! {
        self.world.abort(i32::from(code))
    }

    fn done<T>(&self, result: ferrompi::Result<T>) -> Result<T> {
        result.map_err(|error| failed(self.rank, &error))
    }
}

impl Drop for Ranks {
    /// Ends all processes after a panic: MPI's own end would wait for those that wait for this one.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort(101);
        }
    }
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

fn failed(rank: usize, error: &ferrompi::Error) -> Error {
    Error::Rank { rank, message: format!("MPI: {error}"), code: 1 }
}
