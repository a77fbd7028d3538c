//! Groups the images of a gallery into persons, without labels.

use crate::embeddings::rows::Rows;
use crate::error::{Error, Result};
use crate::gpu::{Context, ContextOptions};
use crate::observer::{Observer, Stage};
use crate::retrieval::dbscan::{self, Choice, Clusters, RADII};
use crate::retrieval::jaccard::{Jaccard, JaccardOptions};
use crate::retrieval::neighbours::Neighbours;
use crate::retry::retry;

/// Share of the images above which a cluster is suspicious.
const SUSPICIOUS_SHARE: f64 = 0.1;
/// Images up to which no cluster is suspicious.
const INCONSPICUOUS: usize = 64;

/// Settings of a clustering.
#[derive(Debug, Clone)]
pub struct Request {
    /// Neighbours that the distances are made of.
    pub jaccard: JaccardOptions,
    /// Radius; `None` chooses one of [`RADII`].
    pub eps: Option<f64>,
    /// Images within the radius of a core image, itself included.
    pub min_samples: usize,
    /// The adapter.
    pub adapter: ContextOptions,
    /// Limit of device memory in bytes; `None` takes the default of the adapter's class.
    pub memory: Option<u64>,
}

/// Result of a clustering.
pub struct Outcome {
    /// Name of the adapter.
    pub adapter: String,
    /// The distances.
    pub distances: Jaccard,
    /// The radius.
    pub eps: f64,
    /// The clusters.
    pub clusters: Clusters,
    /// All radii that were compared; empty if one was given.
    pub tried: Vec<Choice>,
}

impl Outcome {
    /// Sizes of the clusters that are too large for one person: above 64 images, and above a tenth of all.
    pub fn suspicious(&self) -> Vec<usize> {
        let most = INCONSPICUOUS.max((SUSPICIOUS_SHARE * self.clusters.labels.len() as f64) as usize);
        self.clusters.sizes().into_iter().filter(|&size| size > most).collect()
    }
}

/// Groups images by their embeddings. If the adapter is lost or runs out of memory, reopens it once and starts again.
///
/// # Errors
/// [`Error::Data`] if there are fewer than two clusters; [`Error::Usage`] for impossible settings;
/// [`Error::Interrupted`] after a signal; those of the adapter and the files.
pub fn cluster(rows: &dyn Rows, request: &Request, observer: &dyn Observer) -> Result<Outcome> {
    let Request { jaccard, eps, min_samples, adapter, memory } = request;
    if let Some(eps) = eps.filter(|eps| !(0.0..1.0).contains(eps)) {
        return Err(Error::Usage(format!("eps must be from 0 to below 1, not {eps}")));
    }
    let work = |_: &mut (), context: &Context| {
        let stage = Stage::new(observer, "clustering", 3 * rows.len(), "nothing was written");
        let memory = memory.unwrap_or(context.default_memory());
        let distances = Jaccard::new(&mut Neighbours::new(context, rows, rows, memory)?, *jaccard, &stage)?;
        let adapter = context.adapter.name.clone();
        if let Some(eps) = *eps {
            let clusters = dbscan::cluster(&distances, eps, *min_samples, &stage)?;
            if clusters.count < 2 {
                return Err(Error::Data(format!(
                    "eps {eps} gives {} clusters; --eps auto compares {} to {}",
                    clusters.count,
                    RADII[0],
                    RADII[RADII.len() - 1]
                )));
            }
            return Ok(Outcome { adapter, distances, eps, clusters, tried: Vec::new() });
        }
        let tried = dbscan::try_radii(&distances, *min_samples, &stage)?;
        let Choice { eps, clusters, .. } = dbscan::choose(tried.clone())?;
        Ok(Outcome { adapter, distances, eps, clusters, tried })
    };
    retry(adapter, observer, ", and the clustering begins again", &mut (), work, |_, _| Ok(0))
}
