//! Labelled images for training: the training and validation images, and the order of an epoch.
//!
//! Every random choice is a function of (seed, epoch, position) by [`crate::rng`], so a resumed run sees the same
//! images in the same order, mirrored or not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::figures::{Crowd, FAMILY};
use crate::images::walk;
use crate::rng;
use serde::{Deserialize, Serialize};

// Streams of random numbers: the upper byte is the use, the lower bytes count epochs or classes.
const ORDER: u64 = 1 << 56;
const FLIP: u64 = 2 << 56;
const SHARE: u64 = 3 << 56;
const CHOICE: u64 = 4 << 56;
const PERSONS: u64 = 8 << 56;
const HELD_OUT: u64 = 9 << 56;

/// Fewest held-out persons that can choose an epoch.
const LEAST_HELD_OUT: usize = 10;

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The set's crowd draws it: person and camera, both from 0.
    Drawn {
        /// Person.
        person: u32,
        /// Camera.
        camera: u32,
    },
}

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Where it comes from.
    pub source: Source,
    /// Path below the data set's folder, separated by `/`.
    pub name: String,
    /// Person, as an index into [`TrainingSet::classes`].
    pub class: usize,
    /// Camera.
    pub camera: u32,
}

/// Labelled images to train on, made by [`training_set`](super::uses::training_set).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrainingSet {
    /// Sorted by name.
    pub images: Vec<Sample>,
    /// Sorted names of the persons.
    pub classes: Vec<String>,
    /// Names of the cameras by [`Sample::camera`], as far as they are known.
    pub cameras: BTreeMap<u32, String>,
    /// Number of images left out: junk (person −1), and those outside the layout.
    pub skipped: usize,
    /// Other files that the walk leaves out.
    pub left_out: walk::LeftOut,
    /// Draws the images without a file.
    pub crowd: Option<Arc<Crowd>>,
}

impl TrainingSet {
    /// Returns the number of persons in a row that a batch takes together: the look-alikes of a crowd, else one.
    pub fn family(&self) -> usize {
        if self.crowd.is_some() { FAMILY as usize } else { 1 }
    }

    /// Splits the images into training and validation images: two ascending lists of indices into [`Self::images`].
    ///
    /// Without a fraction, the first image of every person with two or more validates. With one, `seed` chooses
    /// `fraction` of each person's images, rounded so that the share is correct over all persons. At least one image of
    /// each person trains.
    pub fn split(&self, fraction: Option<f64>, seed: u64) -> (Vec<usize>, Vec<usize>) {
        let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); self.classes.len()];
        for (index, sample) in self.images.iter().enumerate() {
            of_class[sample.class].push(index);
        }
        let mut validates = vec![false; self.images.len()];
        for (class, mut members) in of_class.into_iter().enumerate() {
            let most = members.len().saturating_sub(1);
            let count = match fraction {
                None => 1,
                Some(fraction) => {
                    let wanted = fraction * members.len() as f64;
                    // Rounds up at random with the remainder as probability, so that small counts keep the share.
                    (wanted + f64::from(rng::uniform(seed, SHARE, class as u64))).floor() as usize
                }
            };
            if fraction.is_some() {
                members.sort_by_key(|&index| (rng::bits(seed, CHOICE, index as u64), index));
            }
            for &index in members.iter().take(count.min(most)) {
                validates[index] = true;
            }
        }
        (0..self.images.len()).partition(|&index| !validates[index])
    }

    /// Holds out `share` of the persons, rounded. Returns the set of the others and the held-out set.
    ///
    /// `seed` draws them from the persons with two or more images, since a query needs a match.
    ///
    /// # Errors
    /// `Usage` if they are fewer than ten, if too few persons have two images, or if fewer than two persons are left.
    pub fn hold_out(self, share: f64, seed: u64) -> Result<(TrainingSet, TrainingSet)> {
        let persons = self.classes.len();
        let wanted = (share * persons as f64).round() as usize;
        let mut counts = vec![0usize; persons];
        self.images.iter().for_each(|sample| counts[sample.class] += 1);
        let mut eligible: Vec<usize> = (0..persons).filter(|&class| counts[class] >= 2).collect();
        let refused = |reason: String| {
            Err(Error::Usage(format!("--val-persons {share} of {persons} persons is {wanted}: {reason}")))
        };
        if wanted < LEAST_HELD_OUT {
            return refused(format!("choosing an epoch by them needs {LEAST_HELD_OUT} or more"));
        }
        if wanted > eligible.len() {
            return refused(format!("but {} persons have two images or more", eligible.len()));
        }
        if persons - wanted < 2 {
            return refused(format!("{} would train, and training needs two", persons - wanted));
        }
        eligible.sort_by_key(|&class| (rng::bits(seed, HELD_OUT, class as u64), class));
        let held_out: BTreeSet<usize> = eligible.into_iter().take(wanted).collect();
        let of = |is_held_out: bool| {
            let classes: Vec<usize> =
                (0..persons).filter(|class| held_out.contains(class) == is_held_out).collect();
            let place: BTreeMap<usize, usize> = classes.iter().copied().zip(0..).collect();
            let images = self
                .images
                .iter()
                .filter_map(|sample| Some(Sample { class: *place.get(&sample.class)?, ..sample.clone() }));
            TrainingSet {
                images: images.collect(),
                classes: classes.iter().map(|&class| self.classes[class].clone()).collect(),
                cameras: self.cameras.clone(),
                skipped: self.skipped,
                left_out: self.left_out.clone(),
                crowd: self.crowd.clone(),
            }
        };
        Ok((of(false), of(true)))
    }

    /// Returns whether any person appears in images of two cameras.
    pub fn crosses_cameras(&self) -> bool {
        self.across_cameras() > 0
    }

    /// Number of persons in images of two or more cameras.
    pub fn across_cameras(&self) -> usize {
        let mut seen: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
        for sample in &self.images {
            seen.entry(sample.class).or_default().insert(sample.camera);
        }
        seen.values().filter(|cameras| cameras.len() > 1).count()
    }
}

/// The rule by which batches of P persons with K images each are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// Persons come from a permutation of all persons, renewed when fewer than P are left. Their images come from a
    /// permutation of each person's images, renewed when too few are left. An image appears twice in a batch only if
    /// its person has too few.
    Balanced,
    /// Each person's images are shuffled and cut into chunks of K. A last chunk of fewer is dropped. A person with fewer
    /// than K images has one chunk, drawn with replacement. P different persons who have chunks left give one each, until
    /// fewer than P have any, so the number of batches depends on the draw.
    Chunks,
    /// Persons come as in `Balanced`. Each gives a random image and K − 1 by other cameras, with replacement if these are
    /// fewer. A person of one camera gives other images, and a single image is repeated.
    Cameras,
}

/// Composition of an epoch's batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Images in a batch.
    pub batch_size: usize,
    /// Persons per batch P, each with K = `batch_size` / P images; 0 takes images in the epoch's order.
    pub persons: usize,
    /// The rule by which persons and images are drawn.
    pub sampler: Sampler,
    /// Persons in a row who are drawn together. [`Sampler::Chunks`] ignores it.
    pub family: usize,
    /// Batches of an epoch; `None` for as many as the images fill. [`Sampler::Chunks`] ignores it.
    pub steps: Option<usize>,
    /// True if each epoch has its own order; else the order is that of the list.
    pub shuffle: bool,
    /// Seed of every random choice.
    pub seed: u64,
}

/// Number of steps of each epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepCounts {
    /// The same in every epoch.
    Same(usize),
    /// Steps before each epoch, and of all epochs at the end.
    Varying(Vec<u64>),
}

impl From<usize> for StepCounts {
    fn from(each: usize) -> StepCounts {
        StepCounts::Same(each)
    }
}

impl StepCounts {
    /// Number of steps before an epoch.
    pub fn before(&self, epoch: usize) -> u64 {
        match self {
            StepCounts::Same(each) => (epoch as u64).saturating_mul(*each as u64),
            StepCounts::Varying(before) => before[epoch.min(before.len() - 1)],
        }
    }

    /// Number of steps of an epoch.
    pub fn of(&self, epoch: usize) -> usize {
        match self {
            StepCounts::Same(each) => *each,
            StepCounts::Varying(_) => (self.before(epoch + 1) - self.before(epoch)) as usize,
        }
    }
}

/// The random numbers of an epoch's sampling, in order.
struct Draws {
    seed: u64,
    stream: u64,
    drawn: u64,
}

impl Draws {
    fn bits(&mut self) -> u32 {
        self.drawn += 1;
        rng::bits(self.seed, self.stream, self.drawn)
    }

    /// A number in 0..`count`.
    fn below(&mut self, count: usize) -> usize {
        below(self.bits(), count)
    }

    fn shuffled(&mut self, mut list: Vec<usize>) -> Vec<usize> {
        permute(&mut list, || self.bits());
        list
    }

    /// Draws `count` of `list`: different ones, or with replacement if it has fewer.
    fn choose(&mut self, mut list: Vec<usize>, count: usize) -> Vec<usize> {
        if list.len() < count {
            return (0..count).map(|_| list[self.below(list.len())]).collect();
        }
        for next in 0..count {
            let chosen = next + self.below(list.len() - next);
            list.swap(next, chosen);
        }
        list.truncate(count);
        list
    }
}

impl Sampling {
    /// Number of batches of each epoch, given the persons of the samples.
    pub fn step_counts(&self, classes: &[usize], epochs: usize) -> StepCounts {
        if self.persons > 0 && self.sampler == Sampler::Chunks {
            let mut total = 0;
            let counts = (0..epochs as u64).map(|epoch| self.batches(classes, &[], epoch).len() as u64);
            let after = counts.map(|count| {
                total += count;
                total
            });
            return StepCounts::Varying(std::iter::once(0).chain(after).collect());
        }
        StepCounts::Same(self.steps_per_epoch(classes.len()))
    }

    /// Number of batches in an epoch of `count` samples where it doesn't vary.
    fn steps_per_epoch(&self, count: usize) -> usize {
        match (self.persons, self.steps) {
            (0, _) => steps_per_epoch(count, self.batch_size),
            (_, None) => (count / self.batch_size).max(1),
            (_, Some(steps)) => steps,
        }
    }

    /// Different sizes of an epoch's batches of `count` samples: that of the first, and that of the last if smaller.
    pub fn sizes(&self, count: usize) -> Vec<usize> {
        if self.persons > 0 {
            // Persons with too few images repeat them, so that every batch is full.
            return vec![self.batch_size];
        }
        let sizes = [if count < self.batch_size { 0 } else { self.batch_size }, count % self.batch_size];
        sizes.into_iter().filter(|&size| size > 1).collect()
    }

    /// The batches of an epoch, each a list of indices into `classes`, the persons of the samples. `cameras` are those of
    /// the samples; only [`Sampler::Cameras`] reads them.
    ///
    /// # Panics
    /// If P is larger than the number of persons in `classes`.
    pub fn batches(&self, classes: &[usize], cameras: &[u32], epoch: u64) -> Vec<Vec<usize>> {
        let Sampling { batch_size, persons, sampler, shuffle, seed, .. } = *self;
        if persons == 0 {
            let order = epoch_order(classes.len(), seed, epoch, shuffle);
            return batches(&order, batch_size).map(<[usize]>::to_vec).collect();
        }
        let mut images: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, &class) in classes.iter().enumerate() {
            images.entry(class).or_default().push(index);
        }
        assert!(persons <= images.len(), "{persons} persons of {}", images.len());
        let mut draws = Draws { seed, stream: PERSONS | epoch, drawn: 0 };
        let steps = self.steps_per_epoch(classes.len());
        match sampler {
            Sampler::Balanced => self.balanced(&images, &mut draws, steps),
            Sampler::Chunks => self.chunks(images, &mut draws),
            Sampler::Cameras => self.across_cameras(&images, cameras, &mut draws, steps),
        }
    }

    /// The persons in a random order of their families.
    fn persons_of(&self, images: &BTreeMap<usize, Vec<usize>>, draws: &mut Draws) -> VecDeque<usize> {
        let persons: Vec<usize> = images.keys().copied().collect();
        if !self.shuffle {
            return VecDeque::from(persons);
        }
        let families: Vec<&[usize]> = persons.chunks(self.family).collect();
        let order = draws.shuffled((0..families.len()).collect());
        order.into_iter().flat_map(|family| families[family]).copied().collect()
    }

    fn balanced(
        &self,
        images: &BTreeMap<usize, Vec<usize>>,
        draws: &mut Draws,
        steps: usize,
    ) -> Vec<Vec<usize>> {
        let each = self.batch_size / self.persons;
        let (mut next_persons, mut next_images) = (VecDeque::new(), BTreeMap::new());
        let mut batch = || {
            if next_persons.len() < self.persons {
                next_persons = self.persons_of(images, draws);
            }
            let mut batch = Vec::with_capacity(self.batch_size);
            for class in next_persons.drain(..self.persons) {
                let queue: &mut VecDeque<usize> = next_images.entry(class).or_default();
                if queue.len() < each.min(images[&class].len()) {
                    queue.clear();
                }
                for _ in 0..each {
                    if queue.is_empty() {
                        let list = images[&class].clone();
                        *queue = VecDeque::from(if self.shuffle { draws.shuffled(list) } else { list });
                    }
                    batch.extend(queue.pop_front());
                }
            }
            batch
        };
        (0..steps).map(|_| batch()).collect()
    }

    fn chunks(&self, images: BTreeMap<usize, Vec<usize>>, draws: &mut Draws) -> Vec<Vec<usize>> {
        let each = self.batch_size / self.persons;
        // The chunks of each person, the next one last.
        let mut left: Vec<Vec<Vec<usize>>> = Vec::new();
        for list in images.into_values() {
            let list = if list.len() < each { draws.choose(list, each) } else { draws.shuffled(list) };
            left.push(list.chunks_exact(each).rev().map(<[usize]>::to_vec).collect());
        }
        let mut batches = Vec::new();
        while left.len() >= self.persons {
            let mut batch = Vec::with_capacity(self.batch_size);
            for person in draws.choose((0..left.len()).collect(), self.persons) {
                batch.extend(left[person].pop().unwrap_or_default());
            }
            batches.push(batch);
            left.retain(|chunks| !chunks.is_empty());
        }
        batches
    }

    fn across_cameras(
        &self,
        images: &BTreeMap<usize, Vec<usize>>,
        cameras: &[u32],
        draws: &mut Draws,
        steps: usize,
    ) -> Vec<Vec<usize>> {
        let each = self.batch_size / self.persons;
        let mut next_persons = VecDeque::new();
        let mut batch = || {
            if next_persons.len() < self.persons {
                next_persons = self.persons_of(images, draws);
            }
            let mut batch = Vec::with_capacity(self.batch_size);
            for class in next_persons.drain(..self.persons) {
                let all = &images[&class];
                let anchor = all[draws.below(all.len())];
                let of = |keeps: &dyn Fn(usize) -> bool| -> Vec<usize> {
                    all.iter().copied().filter(|&image| keeps(image)).collect()
                };
                let mut others = of(&|image| cameras[image] != cameras[anchor]);
                if others.is_empty() {
                    others = of(&|image| image != anchor);
                }
                if others.is_empty() {
                    others.push(anchor);
                }
                batch.push(anchor);
                batch.extend(draws.choose(others, each - 1));
            }
            batch
        };
        (0..steps).map(|_| batch()).collect()
    }
}

/// Maps 32 random bits to a number in 0..`count`.
fn below(bits: u32, count: usize) -> usize {
    ((u64::from(bits) * count as u64) >> 32) as usize
}

/// Shuffles by Fisher–Yates, from the last position.
fn permute(list: &mut [usize], mut bits: impl FnMut() -> u32) {
    for last in (1..list.len()).rev() {
        list.swap(last, below(bits(), last + 1));
    }
}

/// The order of `count` samples in an epoch: a permutation of 0..count.
fn epoch_order(count: usize, seed: u64, epoch: u64, shuffle: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if shuffle {
        let mut last = count as u64;
        permute(&mut order, || {
            last -= 1;
            rng::bits(seed, ORDER | epoch, last)
        });
    }
    order
}

/// Returns whether the sample at `place` in an epoch's order is mirrored, with `probability`.
pub fn flips(seed: u64, epoch: u64, place: usize, probability: f64) -> bool {
    f64::from(rng::uniform(seed, FLIP | epoch, place as u64)) < probability
}

/// Cuts an epoch's order into batches. Drops a last batch of one sample: it has no variance for BatchNorm.
fn batches(order: &[usize], batch_size: usize) -> impl Iterator<Item = &[usize]> {
    order.chunks(batch_size).filter(|batch| batch.len() > 1)
}

/// Number of [`batches`] of `count` samples.
fn steps_per_epoch(count: usize, batch_size: usize) -> usize {
    count / batch_size + usize::from(count % batch_size > 1)
}

/// Returns whether an epoch of `count` samples drops a last batch of one.
pub fn drops_last(count: usize, batch_size: usize) -> bool {
    count % batch_size == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set with `counts[i]` images of person i.
    fn set(counts: &[usize]) -> TrainingSet {
        let images = counts.iter().enumerate().flat_map(|(class, &count)| {
            (0..count).map(move |i| Sample {
                source: Source::File(PathBuf::new()),
                name: format!("{class:03}/{i:03}"),
                class,
                camera: (i % 2) as u32,
            })
        });
        TrainingSet {
            images: images.collect(),
            classes: (0..counts.len()).map(|c| format!("{c:03}")).collect(),
            cameras: BTreeMap::new(),
            skipped: 0,
            left_out: walk::LeftOut::default(),
            crowd: None,
        }
    }

    #[test]
    fn first_image_of_each_person_validates_by_default() {
        let (train, val) = set(&[3, 1, 2]).split(None, 0);
        assert_eq!(train, [1, 2, 3, 5]);
        assert_eq!(val, [0, 4]);
        let (train, val) = set(&[3, 1, 2]).split(Some(0.0), 0);
        assert_eq!((train.len(), val.len()), (6, 0));
    }

    #[test]
    fn split_meets_the_fraction_and_leaves_each_person_an_image() {
        let set = set(&[2, 3, 10, 1].repeat(100));
        let (train, val) = set.split(Some(0.2), 7);
        assert_eq!(train.len() + val.len(), 1600);
        // Single images never validate: a fifth of the other 1,500.
        assert!(val.len().abs_diff(300) < 25, "{}", val.len());
        assert_eq!((train.clone(), val.clone()), set.split(Some(0.2), 7));
        assert_ne!(val, set.split(Some(0.2), 8).1);
        let (train, _) = set.split(Some(0.999), 7);
        for class in 0..400 {
            assert!(train.iter().any(|&index| set.images[index].class == class));
        }
    }

    #[test]
    fn hold_out_draws_persons_with_two_images_by_seed() {
        let all = set(&[3, 1, 2, 2].repeat(10));
        let (rest, held_out) = all.clone().hold_out(0.26, 5).unwrap();
        // 0.26 · 40 = 10.4.
        assert_eq!((rest.classes.len(), held_out.classes.len()), (30, 10));
        for part in [&rest, &held_out] {
            for sample in &part.images {
                assert_eq!(sample.name.split('/').next(), Some(part.classes[sample.class].as_str()));
            }
            assert!(part.classes.is_sorted() && part.images.is_sorted_by_key(|sample| &sample.name));
        }
        assert!(held_out.crosses_cameras());
        let single: Vec<String> = (0..10).map(|i| format!("{:03}", 4 * i + 1)).collect();
        assert!(held_out.classes.iter().all(|class| !single.contains(class)), "{:?}", held_out.classes);
        let mut both: Vec<Sample> =
            [&rest, &held_out].into_iter().flat_map(|part| part.images.clone()).collect();
        both.sort_by(|a, b| a.name.cmp(&b.name));
        let names = |samples: &[Sample]| samples.iter().map(|sample| sample.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&both), names(&all.images));
        assert_eq!(all.clone().hold_out(0.26, 5).unwrap().1, held_out);
        assert_ne!(all.clone().hold_out(0.26, 6).unwrap().1.classes, held_out.classes);

        for (share, words) in [(0.2, "40 persons is 8: choosing"), (0.8, "but 30 persons"), (0.01, "is 0")] {
            match all.clone().hold_out(share, 0) {
                Err(Error::Usage(text)) => assert!(text.contains(words), "{text}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(set(&[2; 11]).hold_out(0.9, 0), Err(Error::Usage(_))));
        let mut one = set(&[2; 2]);
        one.images.iter_mut().for_each(|sample| sample.camera = 0);
        assert!(!one.crosses_cameras());
    }

    #[test]
    fn each_epoch_has_its_own_permutation() {
        let order = epoch_order(1000, 1, 0, true);
        let mut sorted = order.clone();
        sorted.sort();
        assert_eq!(sorted, epoch_order(1000, 1, 0, false));
        assert_eq!(sorted[999], 999);
        assert_eq!(order, epoch_order(1000, 1, 0, true));
        assert_ne!(order, epoch_order(1000, 1, 1, true));
        assert_ne!(order, epoch_order(1000, 2, 0, true));
        // A fair shuffle leaves about one sample where it was.
        assert!(order.iter().enumerate().filter(|(place, index)| *place == **index).count() < 8);
        assert!(epoch_order(0, 1, 0, true).is_empty());
        // Later versions must repeat a run.
        assert_eq!(epoch_order(6, 0, 0, true), [3, 5, 4, 0, 1, 2]);
    }

    #[test]
    fn batches_hold_p_persons_with_k_images_each() {
        // 11 persons with 1 to 11 images.
        let classes: Vec<usize> = (0..11).flat_map(|person| vec![person; person + 1]).collect();
        let sampling = sampling(3, 4, Sampler::Balanced);
        let batches = sampling.batches(&classes, &[], 2);
        assert_eq!(sampling.step_counts(&classes, 3), StepCounts::Same(batches.len()));
        assert_eq!(batches.len(), 66 / 12);
        let mut shown = vec![0; 11];
        for batch in &batches {
            let persons: Vec<usize> = batch.iter().map(|&i| classes[i]).collect();
            for group in persons.chunks(4) {
                assert!(group.iter().all(|&person| person == group[0]), "{persons:?}");
                shown[group[0]] += 1;
            }
            let distinct: std::collections::BTreeSet<usize> = persons.iter().copied().collect();
            assert_eq!((batch.len(), distinct.len()), (12, 3));
            for (person, group) in persons.iter().step_by(4).zip(batch.chunks(4)) {
                let images: std::collections::BTreeSet<&usize> = group.iter().collect();
                assert_eq!(images.len(), (person + 1).min(4), "person {person} with {group:?}");
            }
        }
        // Three batches of the first permutation, two of the second.
        assert!(shown.iter().all(|&count| count <= 2), "{shown:?}");
        assert!(shown.iter().filter(|&&count| count > 0).count() >= 9, "{shown:?}");
        assert_eq!(batches, sampling.batches(&classes, &[], 2));
        assert_ne!(batches, sampling.batches(&classes, &[], 3));
        assert_ne!(batches, Sampling { seed: 5, ..sampling }.batches(&classes, &[], 2));
        // Later versions must repeat a run.
        assert_eq!(batches[0], [13, 12, 14, 11, 19, 16, 20, 18, 2, 1, 2, 1]);
        // Without shuffling.
        let first = &Sampling { shuffle: false, ..sampling }.batches(&classes, &[], 9)[0];
        assert_eq!(first[..], [0, 0, 0, 0, 1, 2, 1, 2, 3, 4, 5, 3]);
        // Fewer images than a batch still make one batch.
        assert_eq!(Sampling { batch_size: 6, persons: 3, ..sampling }.batches(&[0, 1, 2], &[], 0).len(), 1);
    }

    #[test]
    fn families_are_drawn_together() {
        let classes: Vec<usize> = (0..200).map(|image| image / 5).collect();
        let cameras: Vec<u32> = (0..200).map(|image| image % 5).collect();
        for sampler in [Sampler::Balanced, Sampler::Cameras] {
            let sampling = Sampling { family: 4, ..sampling(8, 2, sampler) };
            let mut orders = BTreeSet::new();
            for batch in sampling.batches(&classes, &cameras, 3) {
                let persons: Vec<usize> = batch.iter().map(|&image| classes[image]).collect();
                for family in persons.chunks(8) {
                    assert!(family.iter().all(|person| person / 4 == family[0] / 4), "{persons:?}");
                }
                orders.insert(persons[0]);
            }
            assert!(orders.len() > 3, "{orders:?}");
        }
    }

    fn sampling(persons: usize, each: usize, sampler: Sampler) -> Sampling {
        Sampling {
            batch_size: persons * each,
            persons,
            sampler,
            family: 1,
            steps: None,
            shuffle: true,
            seed: 4,
        }
    }

    #[test]
    fn chunks_give_each_image_once_until_too_few_persons_are_left() {
        // 11 persons with 1 to 11 images: chunks of 4 are 1 for 1 to 7 images, else 2.
        let classes: Vec<usize> = (0..11).flat_map(|person| vec![person; person + 1]).collect();
        let chunks = |person: usize| if person < 7 { 1 } else { 2 };
        let sampling = sampling(3, 4, Sampler::Chunks);
        let counts = sampling.step_counts(&classes, 200);
        let mut lengths = BTreeSet::new();
        for epoch in 0..200 {
            let batches = sampling.batches(&classes, &[], epoch);
            assert_eq!(batches.len(), counts.of(epoch as usize));
            lengths.insert(batches.len());
            let mut given = [0; 11];
            let mut images = vec![0; classes.len()];
            for batch in &batches {
                let persons: BTreeSet<usize> = batch.iter().map(|&i| classes[i]).collect();
                assert_eq!((batch.len(), persons.len()), (12, 3));
                for group in batch.chunks(4) {
                    assert!(group.iter().all(|&i| classes[i] == classes[group[0]]));
                    given[classes[group[0]]] += 1;
                }
                batch.iter().for_each(|&i| images[i] += 1);
            }
            // Persons with four images or more give no image twice.
            assert!((0..classes.len()).all(|i| classes[i] < 3 || images[i] <= 1), "{images:?}");
            assert!((0..11).all(|person| given[person] <= chunks(person)), "{given:?}");
            let left = (0..11).filter(|&person| given[person] < chunks(person)).count();
            assert!(left < 3, "{left} persons could give one more batch");
        }
        // 15 chunks make 5 batches, unless one or two persons are left with two chunks each.
        assert_eq!(lengths, BTreeSet::from([4, 5]));
        assert_eq!((counts.before(0), counts.before(200)), (0, counts.before(500)));
        assert_eq!(counts.of(200), 0);
        assert!(
            (0..200).all(|epoch| counts.before(epoch + 1) == counts.before(epoch) + counts.of(epoch) as u64)
        );
        assert_eq!(
            sampling.step_counts(&classes, 7),
            StepCounts::Varying((0..8).map(|e| counts.before(e)).collect())
        );
        // All draws with replacement, and all remainders, occur.
        let seen: BTreeSet<Vec<usize>> = (0..400)
            .flat_map(|epoch| sampling.batches(&classes, &[], epoch))
            .flat_map(|batch| batch.chunks(4).map(<[usize]>::to_vec).collect::<Vec<_>>())
            .filter(|group| classes[group[0]] == 1)
            .collect();
        assert_eq!(seen.len(), 16, "{seen:?}");
    }

    #[test]
    fn cameras_give_an_anchor_and_images_by_other_cameras() {
        // Person 0: cameras 1, 1, 2, 3. Person 1: one camera. Person 2: one image. Person 3: 4 cameras twice.
        let classes = [0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3];
        let cameras = [1, 1, 2, 3, 5, 5, 5, 9, 1, 2, 3, 4, 1, 2, 3, 4];
        let sampling = sampling(4, 4, Sampler::Cameras);
        assert_eq!(sampling.step_counts(&classes, 9), StepCounts::Same(1));
        let mut anchors = BTreeSet::new();
        for epoch in 0..300 {
            let batch = &sampling.batches(&classes, &cameras, epoch)[0];
            let mut persons: Vec<usize> = batch.chunks(4).map(|group| classes[group[0]]).collect();
            persons.sort_unstable();
            assert_eq!(persons, [0, 1, 2, 3]);
            for group in batch.chunks(4) {
                let (anchor, others) = (group[0], &group[1..]);
                anchors.insert(anchor);
                let distinct: BTreeSet<usize> = others.iter().copied().collect();
                let is_other = |&i: &usize| cameras[i] != cameras[anchor];
                assert!(others.iter().all(|&i| classes[i] == classes[anchor]));
                match classes[anchor] {
                    // Two images by other cameras if the anchor's has two, else three.
                    0 if anchor < 2 => {
                        assert!(others.iter().all(is_other) && distinct.len() < 3, "{group:?}")
                    }
                    0 | 3 => assert!(others.iter().all(is_other) && distinct.len() == 3, "{group:?}"),
                    1 => assert!(!distinct.contains(&anchor), "{group:?}"),
                    _ => assert_eq!(group, [7; 4]),
                }
            }
        }
        assert_eq!(anchors.len(), 16);
        let again = |epoch| sampling.batches(&classes, &cameras, epoch);
        assert_eq!(again(1), again(1));
        assert_ne!(again(1), again(2));
    }

    #[test]
    fn sizes_agree_with_batches() {
        for images in 2..20 {
            for persons in 1..=images.min(5) {
                let classes: Vec<usize> = (0..images).map(|i| i % persons).collect();
                for (batch_size, persons) in (2..12)
                    .map(|batch| (batch, 0))
                    .chain((1..=persons).flat_map(|p| (2..6).map(move |k| (p * k, p))))
                {
                    let sampler = Sampler::Balanced;
                    let sampling = Sampling {
                        batch_size,
                        persons,
                        sampler,
                        family: 1,
                        steps: None,
                        shuffle: true,
                        seed: 1,
                    };
                    for epoch in 0..3 {
                        let batches = sampling.batches(&classes, &[], epoch);
                        let mut sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
                        sizes.dedup();
                        assert_eq!(sizes, sampling.sizes(images), "{images} images, {sampling:?}");
                        assert_eq!(batches.len(), sampling.steps_per_epoch(images), "{sampling:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn permutations_are_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..6000 {
            *counts.entry(epoch_order(3, 5, epoch, true)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| count.abs_diff(1000) < 150), "{counts:?}");
    }

    #[test]
    fn flips_follow_the_probability() {
        let count = |p: f64| (0..10_000).filter(|&place| flips(3, 4, place, p)).count();
        assert!(count(0.5).abs_diff(5000) < 200, "{}", count(0.5));
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((0..100).any(|place| flips(3, 4, place, 0.5) != flips(3, 5, place, 0.5)));
    }

    #[test]
    fn last_batch_of_one_is_dropped() {
        for (count, sizes, drops) in
            [(6, vec![3, 3], false), (7, vec![3, 3], true), (8, vec![3, 3, 2], false), (1, vec![], true)]
        {
            let order = epoch_order(count, 0, 0, false);
            let found: Vec<usize> = batches(&order, 3).map(<[usize]>::len).collect();
            assert_eq!(found, sizes);
            assert_eq!((steps_per_epoch(count, 3), drops_last(count, 3)), (sizes.len(), drops));
        }
    }
}
