//! The schedule: freeze mask and learning rate of each epoch, as in the paper's Algorithm 1.
//!
//! At each epoch e with e % T == 0, while a block is closed, the highest closed block opens (at epoch 0, the highest N)
//! and the learning rate is multiplied by its decay factor. The final norm and the part classifiers train from the
//! start. The released code goes on decaying after all blocks are open. Without `blockwise`, all blocks are open from
//! the start.

use std::f64::consts::PI;

use crate::checkpoint::{classifier_tensors, parameter_shapes};
use crate::datasets::sampler::StepCounts;
use crate::kernels::adam::GroupValues;
use crate::model::{GroupKind, Trainable};
use crate::shape::{ClassifierKind, VitConfig};
use crate::train::config::{Config, LrStep};

/// The schedule of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    config: Config,
    depth: usize,
    steps: StepCounts,
}

impl Schedule {
    /// Creates the schedule of `config` for a network of `depth` blocks.
    pub fn new(config: &Config, depth: usize, steps: impl Into<StepCounts>) -> Schedule {
        Schedule { config: config.clone(), depth, steps: steps.into() }
    }

    /// Returns the steps of the run: those of all epochs, or `max_steps` if it is less.
    pub fn steps(&self) -> u64 {
        let all = self.all_steps();
        self.config.schedule.max_steps.map_or(all, |most| most.min(all))
    }

    /// Returns the steps of all epochs.
    pub fn all_steps(&self) -> u64 {
        self.steps.before(self.config.schedule.epochs)
    }

    /// Returns the number of steps before an epoch.
    pub fn steps_before(&self, epoch: usize) -> u64 {
        self.steps.before(epoch)
    }

    /// Returns the number of steps of an epoch.
    pub fn steps_of(&self, epoch: usize) -> usize {
        self.steps.of(epoch)
    }

    /// Returns the number of open blocks in an epoch.
    fn open_blocks(&self, epoch: usize) -> usize {
        let schedule = &self.config.schedule;
        let opened = schedule.first_unfreeze.saturating_add(epoch / schedule.unfreeze_every);
        if schedule.blockwise { opened.min(self.depth) } else { self.depth }
    }

    /// Returns true if a block is still closed at the start of an epoch, before the next one opens.
    fn is_closed_before(&self, epoch: usize) -> bool {
        let open =
            if epoch == 0 && self.config.schedule.blockwise { 0 } else { self.open_blocks(epoch.max(1) - 1) };
        open < self.depth
    }

    /// Returns true if the learning rate decays at the start of an epoch.
    fn decays(&self, epoch: usize) -> bool {
        let at_turn = epoch.is_multiple_of(self.config.schedule.unfreeze_every);
        at_turn && (self.config.optim.decay_every_interval || self.is_closed_before(epoch))
    }

    /// Returns the groups that train in an epoch.
    pub fn stage(&self, epoch: usize) -> Trainable {
        Trainable {
            embeddings: !self.config.schedule.freeze_embeddings,
            first_open: self.depth - self.open_blocks(epoch),
        }
    }

    /// Returns the epochs in which blocks open.
    pub fn openings(&self) -> Vec<usize> {
        let epochs = 0..self.config.schedule.epochs;
        let opens = |epoch: usize| match epoch {
            0 => self.config.schedule.blockwise && self.open_blocks(0) > 0,
            _ => self.open_blocks(epoch) > self.open_blocks(epoch - 1),
        };
        epochs.filter(|&epoch| opens(epoch)).collect()
    }

    /// Returns the values of all groups at the step with index `place` in an epoch, in the order of
    /// [`GroupKind::all`].
    pub fn groups(&self, epoch: usize, place: usize) -> Vec<GroupValues> {
        let optim = &self.config.optim;
        let number = self.steps.before(epoch) + place as u64 + 1;
        let values = |group: GroupKind| {
            let rate = |factor: f64| (self.rate(epoch, place, factor) * self.layer_factor(group)) as f32;
            GroupValues {
                learning_rate: rate(1.0),
                bias_learning_rate: rate(optim.bias_lr_factor),
                corrections: optim.betas().corrections(self.adam_step(group, number) as u32),
            }
        };
        GroupKind::all(self.depth).into_iter().map(values).collect()
    }

    /// Returns the factor of a group's learning rate by its layer, as in BEiT: the embeddings are layer 0, block b is
    /// layer b + 1, and final norm and part classifiers are the last layer.
    fn layer_factor(&self, group: GroupKind) -> f64 {
        let above = match group {
            GroupKind::Embeddings => self.depth + 1,
            GroupKind::Block(block) => self.depth - block,
            GroupKind::Norm | GroupKind::PartClassifiers | GroupKind::Statistics => 0,
        };
        self.config.optim.layer_decay.powi(above as i32)
    }

    /// Returns the learning rate of the step with index `place` in an epoch, for weights of the last layer.
    pub fn lr(&self, epoch: usize, place: usize) -> f64 {
        self.rate(epoch, place, 1.0)
    }

    /// Returns the learning rate of parameters whose full rate is `factor` times the run's.
    ///
    /// By step, warm-up rises linearly and reaches the full rate at its last step. The cosine falls from there and would
    /// reach 0 one step after the last. By epoch, all parameters begin the warm-up and end the cosine at the same rate.
    fn rate(&self, epoch: usize, place: usize, factor: f64) -> f64 {
        let optim = &self.config.optim;
        // Multiplied one at a time, as in the released code.
        let base = (0..=epoch).filter(|&e| self.decays(e)).fold(optim.lr, |lr, _| lr * optim.lr_decay);
        let mut lr = base * factor;
        if optim.lr_step == LrStep::Epoch {
            // Epochs count from 1, and 0 is the start of the warm-up.
            let e = (epoch + 1).saturating_sub(optim.lr_epoch_offset) as f64;
            let (warm, epochs) = (optim.warmup_epochs as f64, self.config.schedule.epochs as f64);
            let (first, last) = (optim.warmup_factor * base, optim.lr_min_factor * base);
            return if e < warm {
                first + e * (lr - first) / warm
            } else if optim.cosine {
                last + 0.5 * (lr - last) * (1.0 + (PI * e / epochs).cos())
            } else {
                lr
            };
        }
        let step = (self.steps.before(epoch) + place as u64) as f64;
        let warm = self.steps.before(optim.warmup_epochs) as f64;
        if step < warm {
            lr *= (step + 1.0) / warm;
        } else if optim.cosine {
            let length = (self.all_steps() as f64 - warm).max(1.0);
            lr *= 0.5 * (1.0 + (PI * ((step - warm) / length).min(1.0)).cos());
        }
        lr
    }

    /// Returns the epoch in which a group opens; `None` if it never does.
    pub fn opens_at(&self, group: GroupKind) -> Option<usize> {
        let schedule = &self.config.schedule;
        match group {
            GroupKind::Norm | GroupKind::PartClassifiers => Some(0),
            GroupKind::Statistics => None,
            GroupKind::Embeddings => (!schedule.freeze_embeddings).then_some(0),
            GroupKind::Block(_) if !schedule.blockwise => Some(0),
            GroupKind::Block(block) => {
                let order = self.depth - 1 - block;
                let turns = (order + 1).saturating_sub(schedule.first_unfreeze);
                Some(turns.saturating_mul(schedule.unfreeze_every))
            }
        }
    }

    /// Returns a group's own step number at a step of the run, both from 1; 0 while the group is closed.
    pub fn adam_step(&self, group: GroupKind, step: u64) -> u64 {
        let opened = self.opens_at(group).map(|epoch| self.steps.before(epoch));
        opened.map_or(0, |before| step.saturating_sub(before))
    }
}

/// Returns the number of parameters that train in a stage: backbone, and `config.parts()` classifiers of
/// Linear (dim → hidden), BatchNorm and Linear (hidden → classes).
pub fn trainable_parameters(
    config: &VitConfig,
    kind: ClassifierKind,
    classes: usize,
    stage: Trainable,
) -> usize {
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let backbone =
        parameter_shapes(config).into_iter().filter(|(name, _)| stage.contains(GroupKind::of(name)));
    let head = classifier_tensors(kind, config.dim, classes).into_iter().filter(|tensor| tensor.learned);
    backbone.map(|(_, shape)| count(&shape)).sum::<usize>()
        + config.parts() * head.map(|tensor| count(&tensor.shape)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;
    use crate::train::config::Preset;

    const STEPS: usize = 10;

    fn schedule(preset: Preset) -> Schedule {
        Schedule::new(&Config::preset(preset), 12, STEPS)
    }

    fn vit_b16() -> VitConfig {
        VitConfig::plain(ImageSize::square(224), 16, 768, 12, 12)
    }

    fn close(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 1e-12
    }

    #[test]
    fn trainable_parameters_are_those_of_the_released_code() {
        let count = |preset: Preset, epoch: usize| {
            trainable_parameters(
                &vit_b16(),
                ClassifierKind::Parts { hidden: 256 },
                751,
                schedule(preset).stage(epoch),
            )
        };
        for stage in 0..=10 {
            let wanted = 20_385_298 + stage * 7_087_872;
            assert_eq!(count(Preset::ReleasedCode, 2 * stage), wanted);
            assert_eq!(count(Preset::ReleasedCode, 2 * stage + 1), wanted);
        }
        assert_eq!(count(Preset::ReleasedCode, 20), 91_264_018);
        assert_eq!(count(Preset::ReleasedCode, 29), 91_264_018);
        assert_eq!(count(Preset::Paper, 0), 12_554_770);
        assert_eq!(count(Preset::Paper, 22), 91_264_018 - 590_592 - 151_296 - 768);
        assert_eq!(count(Preset::Full, 0), 91_264_018);
    }

    #[test]
    fn the_paper_opens_a_block_every_second_epoch_and_decays_twelve_times() {
        let s = schedule(Preset::Paper);
        assert_eq!(s.stage(0), Trainable { embeddings: false, first_open: 11 });
        assert_eq!(s.stage(1).first_open, 11);
        assert_eq!(s.stage(2).first_open, 10);
        assert_eq!(s.stage(21).first_open, 1);
        assert_eq!(s.stage(22).first_open, 0);
        assert_eq!(s.openings(), (0..12).map(|i| 2 * i).collect::<Vec<_>>());
        assert!(close(s.lr(0, 0), 3e-4 * 0.85));
        assert!(close(s.lr(1, 9), 3e-4 * 0.85));
        assert!(close(s.lr(2, 0), 3e-4 * 0.85 * 0.85));
        assert!(close(s.lr(22, 0), 3e-4 * 0.85f64.powi(12)));
        assert_eq!(s.lr(29, 9), s.lr(22, 0));
        assert_eq!(s.steps(), 300);
    }

    #[test]
    fn the_released_code_decays_after_all_blocks_are_open() {
        let s = schedule(Preset::ReleasedCode);
        assert_eq!(s.stage(0), Trainable { embeddings: true, first_open: 10 });
        assert_eq!(s.stage(20).first_open, 0);
        // The rates that the released code prints for epochs 0, 2, 20 and 28.
        for (epoch, lr) in [(0, 2.4e-4), (2, 1.92e-4), (20, 2.577e-5), (28, 1.0555e-5)] {
            assert!((s.lr(epoch, 0) / lr - 1.0).abs() < 1e-3, "{epoch}: {}", s.lr(epoch, 0));
        }
        assert_eq!(*s.openings().last().unwrap(), 20);
    }

    #[test]
    fn full_stays_as_it_began() {
        let s = schedule(Preset::Full);
        for epoch in [0, 2, 29] {
            assert_eq!(s.stage(epoch), Trainable { embeddings: true, first_open: 0 });
            assert_eq!(s.lr(epoch, 3), 3e-4);
        }
        assert!(s.openings().is_empty());
        let mut config = Config::preset(Preset::Full);
        config.optim.lr_decay = 0.5;
        assert_eq!(Schedule::new(&config, 12, STEPS).lr(8, 0), 3e-4);
    }

    #[test]
    fn strong_warms_up_and_falls_along_a_cosine() {
        let s = schedule(Preset::Strong);
        assert!(close(s.lr(0, 0), 5e-5 / 50.0));
        assert!(close(s.lr(4, 9), 5e-5));
        assert!(close(s.lr(5, 0), 5e-5));
        assert!(close(s.lr(32, 5), 2.5e-5));
        let last = s.lr(59, 9);
        assert!(last > 0.0 && last < 1e-9, "{last}");
        let mut rates = (50..600).map(|step| s.lr(step / STEPS, step % STEPS));
        let mut before = f64::MAX;
        assert!(rates.all(|lr| std::mem::replace(&mut before, lr) >= lr));
    }

    /// The configuration of TransReID: 120 epochs, a base rate of 0.008, twice that for biases.
    fn transreid() -> Config {
        let mut config = Config::preset(Preset::Full);
        config.schedule.epochs = 120;
        let optim = &mut config.optim;
        (optim.lr, optim.bias_lr_factor) = (0.008, 2.0);
        (optim.lr_step, optim.warmup_epochs, optim.cosine) = (LrStep::Epoch, 5, true);
        config
    }

    #[test]
    fn the_rate_by_epoch_is_that_of_transreid() {
        // lr(e) of a parameter with the rate v; epochs e from 1.
        let literal = |v: f64, e: f64| match e < 5.0 {
            true => 0.01 * 0.008 + e * (v - 0.01 * 0.008) / 5.0,
            false => 0.002 * 0.008 + 0.5 * (v - 0.002 * 0.008) * (1.0 + (PI * e / 120.0).cos()),
        };
        let mut config = transreid();
        for offset in [0, 1] {
            config.optim.lr_epoch_offset = offset;
            let s = Schedule::new(&config, 2, STEPS);
            for e in [1, 2, 4, 5, 6, 60, 119, 120] {
                let wanted = [0.008, 0.016].map(|v| literal(v, (e - offset) as f64) as f32);
                for place in [0, 9] {
                    assert!(s.groups(e - 1, place).iter().all(|group| {
                        let found = [group.learning_rate, group.bias_learning_rate];
                        found.iter().zip(wanted).all(|(found, wanted)| (found / wanted - 1.0).abs() < 1e-6)
                    }));
                }
                assert!(close(s.lr(e - 1, 0), literal(0.008, (e - offset) as f64)), "{e} {offset}");
            }
        }
        // The first epoch of PersonViT: a hundredth of the base rate, for biases too.
        let first = Schedule::new(&config, 2, STEPS).groups(0, 0)[0];
        assert_eq!((first.learning_rate, first.bias_learning_rate), (8e-5, 8e-5));
        // The last one of TransReID.
        config.optim.lr_epoch_offset = 0;
        let last = Schedule::new(&config, 2, STEPS).groups(119, 9)[0];
        assert_eq!((last.learning_rate, last.bias_learning_rate), (1.6e-5, 1.6e-5));
    }

    #[test]
    fn factors_of_the_rate_by_epoch_have_no_effect_by_step() {
        let mut config = transreid();
        config.optim.lr_step = LrStep::Step;
        let plain = Schedule::new(&config, 2, STEPS);
        (config.optim.warmup_factor, config.optim.lr_min_factor) = (0.5, 0.5);
        config.optim.lr_epoch_offset = 3;
        let other = Schedule::new(&config, 2, STEPS);
        for (epoch, place) in [(0, 0), (4, 9), (5, 0), (119, 9)] {
            assert_eq!(plain.groups(epoch, place), other.groups(epoch, place));
        }
        assert!(close(plain.lr(0, 0), 0.008 / 50.0));
        config.optim.lr_step = LrStep::Epoch;
        config.optim.cosine = false;
        assert_eq!(Schedule::new(&config, 2, STEPS).lr(100, 0), 0.008);
    }

    #[test]
    fn layers_and_biases_have_their_own_rates() {
        let mut config = Config::preset(Preset::Full);
        let rates = |config: &Config| {
            let groups = Schedule::new(config, 3, STEPS).groups(0, 0);
            groups.iter().map(|group| (group.learning_rate, group.bias_learning_rate)).collect::<Vec<_>>()
        };
        assert_eq!(rates(&config), [(3e-4, 3e-4); 6]);
        config.optim.lr = 1.0;
        config.optim.layer_decay = 0.5;
        config.optim.bias_lr_factor = 2.0;
        // Embeddings, three blocks, final norm, part classifiers.
        let wanted = [0.0625, 0.125, 0.25, 0.5, 1.0, 1.0].map(|rate| (rate, 2.0 * rate));
        assert_eq!(rates(&config), wanted);
    }

    #[test]
    fn other_steps_and_starts() {
        let mut config = Config::preset(Preset::Paper);
        config.schedule.unfreeze_every = 3;
        config.schedule.first_unfreeze = 0;
        let s = Schedule::new(&config, 2, STEPS);
        let lowest: Vec<usize> = (0..8).map(|e| s.stage(e).first_open).collect();
        assert_eq!(lowest, [2, 2, 2, 1, 1, 1, 0, 0]);
        assert_eq!(s.openings(), [3, 6]);
        config.schedule.first_unfreeze = 5;
        config.schedule.max_steps = Some(7);
        let s = Schedule::new(&config, 2, STEPS);
        assert_eq!((s.stage(0).first_open, s.openings(), s.steps()), (0, vec![0], 7));
        // All blocks are closed before epoch 0, so the rate decays once.
        assert!(close(s.lr(0, 0), 3e-4 * 0.85) && s.lr(3, 0) == s.lr(0, 0));
    }

    #[test]
    fn epochs_may_have_different_numbers_of_steps() {
        let mut config = Config::preset(Preset::Strong);
        (config.schedule.epochs, config.optim.warmup_epochs) = (3, 1);
        let s = Schedule::new(&config, 2, StepCounts::Varying(vec![0, 4, 7, 12]));
        assert_eq!((s.all_steps(), s.steps_before(2), s.steps_of(2)), (12, 7, 5));
        assert!(close(s.lr(0, 0), 5e-5 / 4.0) && close(s.lr(0, 3), 5e-5));
        // Four of the cosine's eight steps are done.
        assert!(close(s.lr(2, 1), 2.5e-5));
        config = Config::preset(Preset::Paper);
        config.schedule.epochs = 3;
        let s = Schedule::new(&config, 2, StepCounts::Varying(vec![0, 4, 7, 12]));
        assert_eq!((s.adam_step(GroupKind::Block(0), 7), s.adam_step(GroupKind::Block(0), 8)), (0, 1));
    }

    #[test]
    fn each_group_counts_its_own_steps() {
        for preset in [Preset::Paper, Preset::ReleasedCode, Preset::Full] {
            let s = schedule(preset);
            for group in GroupKind::all(12) {
                let mut own = 0;
                for step in 1..=300u64 {
                    own += u64::from(s.stage((step as usize - 1) / STEPS).contains(group));
                    assert_eq!(s.adam_step(group, step), own, "{preset:?} {group:?} step {step}");
                }
            }
        }
    }
}
