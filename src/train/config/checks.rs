//! Settings that contradict each other, and those that a resumed run may not change.

use super::keys::{get, keys};
use super::{BestBy, Config};
use crate::datasets::sampler::Sampler;
use crate::error::{Error, Result};
use crate::images::augment::MOST_ATTEMPTS;
use crate::shape::{HeadEmbed, HeadKind};
use std::path::Path;
use toml::Value;

/// Keys that a resumed run may change.
const FREE: [&str; 6] = [
    "schedule.epochs",
    "schedule.max_steps",
    "schedule.micro_batch",
    "schedule.save_every",
    "schedule.log",
    "device.adapter",
];

/// Keys that name files or folders. Two spellings of one path are equal.
const PLACES: [&str; 4] = ["model.backbone", "data.dir", "cluster.images", "cluster.cameras"];

impl Config {
    /// Checks that `now` differs from this configuration only in keys that a resumed run may change.
    ///
    /// # Errors
    /// `Usage` naming the first other key and both values.
    pub fn check_resumable(&self, now: &Config) -> Result<()> {
        let (saved, now) = (self.table(), now.table());
        for key in keys().map(|key| key.name).filter(|key| !FREE.contains(key)) {
            let (before, after) = (get(&saved, key), get(&now, key));
            if before != after && !(PLACES.contains(&key) && same_place(before, after)) {
                let shown = |value: Option<&Value>| value.map_or("absent".to_string(), Value::to_string);
                return Err(Error::Usage(format!(
                    "{key} is {} in the saved run and {} now; a resumed run may only change {}",
                    shown(before),
                    shown(after),
                    FREE.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// Checks settings against each other; [`super::Key`] checks each alone.
    pub(super) fn check(&self) -> Result<()> {
        let Config { model, data, schedule, loss, head, .. } = self;
        let (persons, clusters) = (data.persons_per_batch, self.cluster.images.is_some());
        let sampled = persons.checked_mul(data.images_per_person);
        let rules = [
            (
                "data.val_persons",
                (schedule.best == BestBy::ValMap) == data.val_persons.is_some(),
                "given with schedule.best=val-map, and only then",
            ),
            ("data.erasing_attempts", data.erasing_attempts <= MOST_ATTEMPTS, "100 or less"),
            ("data.images_per_person", persons == 0 || data.images_per_person >= 2, "2 or more"),
            (
                "schedule.batch_size",
                schedule.batch_size >= 2,
                "2 or more: BatchNorm of the part classifiers cannot normalize one image",
            ),
            (
                "schedule.batch_size",
                persons == 0 || sampled == Some(schedule.batch_size),
                "persons_per_batch × images_per_person",
            ),
            (
                "schedule.eval_every",
                schedule.best != BestBy::TestMap || schedule.eval_every >= 1,
                "1 or more where schedule.best is test-map",
            ),
            (
                "head.embed",
                head.kind == HeadKind::Bnneck || head.embed == HeadEmbed::Before,
                "before unless head.kind is bnneck",
            ),
            (
                "model.jigsaw",
                !model.jigsaw
                    || (head.kind == HeadKind::Bnneck
                        && head.embed == HeadEmbed::Before
                        && loss.prototypes == 0.0),
                "false unless head.kind is bnneck, head.embed is before and loss.prototypes is 0",
            ),
            (
                "data.sampler",
                data.sampler == Sampler::Balanced || (persons > 0 && data.shuffle),
                "balanced unless data.persons_per_batch is above 0 and data.shuffle is true",
            ),
            (
                "schedule.passes",
                schedule.passes == 1 || (persons > 0 && data.sampler != Sampler::Chunks),
                "1 unless data.persons_per_batch is above 0 and data.sampler is not chunks",
            ),
            (
                "cluster.images",
                !clusters || (loss.identity == 0.0 && loss.prototypes > 0.0 && persons > 0),
                "absent unless loss.identity is 0, loss.prototypes is above 0 and data.persons_per_batch is above 0",
            ),
            (
                "cluster.images",
                !clusters || (schedule.best == BestBy::Last && data.sampler != Sampler::Chunks),
                "absent unless schedule.best is last and data.sampler is not chunks",
            ),
            (
                "cluster.images",
                !clusters || (model.camera_embedding == 0.0 && !model.jigsaw),
                "absent unless model.camera_embedding is 0 and model.jigsaw is false",
            ),
            ("loss.soft_margin", loss.triplet || !loss.soft_margin, "false unless loss.triplet is true"),
            (
                "schedule.refit",
                schedule.best == BestBy::ValMap || !schedule.refit,
                "false unless schedule.best is val-map",
            ),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            None => Ok(()),
            Some((key, _, wanted)) => {
                let table = self.table();
                let found = get(&table, key).map_or("nothing".to_string(), Value::to_string);
                Err(Error::Usage(format!("{key} must be {wanted}, found {found}")))
            }
        }
    }
}

/// Returns whether two texts name the same file or folder.
fn same_place(a: Option<&Value>, b: Option<&Value>) -> bool {
    let place =
        |value: Option<&Value>| value.and_then(Value::as_str).and_then(|p| Path::new(p).canonicalize().ok());
    place(a).is_some_and(|path| Some(path) == place(b))
}
