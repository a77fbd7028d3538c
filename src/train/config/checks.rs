//! Values that no run can have, and those that a resumed run may not change.

use super::keys::{KEYS, get};
use super::{BestBy, Config};
use crate::error::{Error, Result};
use std::path::Path;
use toml::Value;

/// Keys that a resumed run may change.
const FREE: [&str; 4] = ["schedule.epochs", "schedule.max_steps", "schedule.save_every", "device.adapter"];

/// Keys that name files or folders: two spellings of one place are no difference.
const PLACES: [&str; 2] = ["model.backbone", "data.dir"];

impl Config {
    /// Refuses to go on with `now` where it differs from this configuration in more than a resumed run may change.
    ///
    /// # Errors
    /// `Usage` naming the first such key and both its values.
    pub fn check_resumable(&self, now: &Config) -> Result<()> {
        let (saved, now) = (self.table(), now.table());
        for &(key, ..) in KEYS.iter().filter(|(key, ..)| !FREE.contains(key)) {
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

    /// Refuses values that no run can have.
    pub(super) fn check(&self) -> Result<()> {
        let Config { data, optim, schedule, head, loss, model, .. } = self;
        let in_unit = |v: f64| (0.0..1.0).contains(&v);
        let probability = |v: f64| (0.0..=1.0).contains(&v);
        let persons = data.persons_per_batch;
        let sampled = persons.checked_mul(data.images_per_person);
        let rules = [
            ("model.lambda", model.lambda >= 0.0, "0 or more"),
            ("model.ln_eps", model.ln_eps.is_none_or(|eps| eps > 0.0), "above 0"),
            ("data.split", data.split >= 1, "1 or more"),
            ("data.val_fraction", data.val_fraction.is_none_or(in_unit), "from 0 to below 1"),
            ("data.val_persons", data.val_persons.is_none_or(|v| v > 0.0 && v < 1.0), "above 0 and below 1"),
            (
                "data.val_persons",
                (schedule.best == BestBy::ValMap) == data.val_persons.is_some(),
                "given with schedule.best=val-map, and only then",
            ),
            ("data.flip", probability(data.flip), "from 0 to 1"),
            ("data.erasing", probability(data.erasing), "from 0 to 1"),
            ("data.images_per_person", persons == 0 || data.images_per_person >= 2, "2 or more"),
            ("optim.lr", optim.lr > 0.0, "above 0"),
            ("optim.lr_decay", optim.lr_decay > 0.0 && optim.lr_decay <= 1.0, "above 0, up to 1"),
            ("optim.weight_decay", optim.weight_decay >= 0.0, "0 or more"),
            ("optim.beta1", in_unit(optim.beta1), "from 0 to below 1"),
            ("optim.beta2", in_unit(optim.beta2), "from 0 to below 1"),
            ("optim.eps", optim.eps > 0.0, "above 0"),
            ("optim.clip_norm", optim.clip_norm >= 0.0, "0 or more"),
            ("schedule.epochs", schedule.epochs >= 1, "1 or more"),
            (
                "schedule.batch_size",
                schedule.batch_size >= 2,
                "2 or more: the heads' BatchNorm has nothing to normalise one sample by",
            ),
            (
                "schedule.batch_size",
                persons == 0 || sampled == Some(schedule.batch_size),
                "persons_per_batch × images_per_person",
            ),
            ("schedule.unfreeze_every", schedule.unfreeze_every >= 1, "1 or more"),
            (
                "schedule.eval_every",
                schedule.best != BestBy::TestMap || schedule.eval_every >= 1,
                "1 or more where schedule.best is test-map",
            ),
            (
                "schedule.refit",
                schedule.best == BestBy::ValMap || !schedule.refit,
                "false unless schedule.best is val-map",
            ),
            ("head.hidden", head.hidden >= 1, "1 or more"),
            ("head.dropout", in_unit(head.dropout), "from 0 to below 1"),
            ("loss.label_smoothing", in_unit(loss.label_smoothing), "from 0 to below 1"),
            ("loss.margin", loss.margin >= 0.0, "0 or more"),
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

/// Whether two texts name the same file or folder.
fn same_place(a: Option<&Value>, b: Option<&Value>) -> bool {
    let place =
        |value: Option<&Value>| value.and_then(Value::as_str).and_then(|p| Path::new(p).canonicalize().ok());
    place(a).is_some_and(|path| Some(path) == place(b))
}
