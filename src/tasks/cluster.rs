//! Groups the images of a gallery into persons, without labels.

use crate::embeddings::rows::Rows;
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::observer::Observer;
use crate::retrieval::dbscan::{ClusterOptions, Grouping, Radius, group};
use crate::retry::retry;

/// Settings of a clustering.
#[derive(Debug, Clone)]
pub struct Request {
    /// Distances and clusters.
    pub options: ClusterOptions,
    /// The adapter.
    pub adapter: ContextOptions,
    /// Limit of device memory in bytes; `None` takes the default of the adapter's class.
    pub memory: Option<u64>,
}

/// Result of a clustering.
pub struct Outcome {
    /// Name of the adapter.
    pub adapter: String,
    /// The clusters.
    pub grouping: Grouping,
}

/// Groups images by their embeddings. If the adapter is lost or runs out of memory, reopens it once and starts again.
///
/// # Errors
/// [`Error::Data`] if there are fewer than two clusters; [`Error::Usage`] for impossible settings;
/// [`Error::Interrupted`] after a signal; those of the adapter and the files.
pub fn cluster(rows: &dyn Rows, request: &Request, observer: &dyn Observer) -> Result<Outcome> {
    let Request { options, adapter, memory } = request;
    if let Radius::Fixed(eps) = options.radius
        && !(0.0..1.0).contains(&eps)
    {
        return Err(Error::Usage(format!("eps must be from 0 to below 1, not {eps}")));
    }
    let work = |_: &mut (), context: &Context| {
        let memory = memory.unwrap_or(context.default_memory());
        let grouping = group(context, rows, options, memory, None, observer, "nothing was written")?;
        Ok(Outcome { adapter: context.adapter.name.clone(), grouping })
    };
    retry(adapter, observer, ", and the clustering begins again", &mut (), work, |_, _| Ok(0))
}
