//! The host side of training: files of a run, and runs that are stopped or killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lat_wgpu::checkpoint::{
    self, ClassifiersInfo, HostTensor, Settings, StateData, StateTensor, parameter_shapes, read_state, save,
    trained_metadata,
};
use lat_wgpu::datasets::LoadOptions;
use lat_wgpu::datasets::sampler::flips;
use lat_wgpu::datasets::uses::training_set;
use lat_wgpu::error::Error;
use lat_wgpu::shape::{
    Activation, ClassifierKind, GeltConfig, ImageSize, Normalize, PartTokens, Preprocess, VitConfig,
};
use lat_wgpu::storage::lock::{FolderLock, holds_files};
use lat_wgpu::train::classifiers::init_classifiers;
use lat_wgpu::train::config::{Config, Layers, Preset};
use lat_wgpu::train::curves;
use lat_wgpu::train::log::{EpochLine, Log, StepLine, epochs};
use lat_wgpu::train::schedule::Schedule;

fn network() -> VitConfig {
    VitConfig {
        image: ImageSize { height: 32, width: 16 },
        patch: 8,
        stride: 8,
        dim: 16,
        depth: 2,
        heads: 2,
        mlp_hidden: 32,
        dist_token: true,
        registers: 0,
        prefix_rows: 2,
        patch_bias: true,
        norm_pre: false,
        layer_scale: true,
        act: Activation::Gelu,
        ln_eps: 1e-6,
        gelt: GeltConfig::default(),
        head_embed: lat_wgpu::shape::HeadEmbed::Before,
        cameras: None,
        jigsaw: false,
        reattention: false,
        statistics: None,
    }
}

fn preprocess() -> Preprocess {
    Preprocess::new(network().image, Normalize::Half.mean_std())
}

/// Backbone and part classifiers with different values everywhere, shifted by `shift`.
fn model(shift: f32) -> (BTreeMap<String, HostTensor>, BTreeMap<String, HostTensor>) {
    let mut next = shift;
    let mut values = |count: usize| -> Vec<f32> {
        let first = next;
        next += count as f32;
        (0..count).map(|i| (first + i as f32).sin()).collect()
    };
    let backbone = parameter_shapes(&network()).into_iter().map(|(name, shape)| {
        let data = values(shape.iter().product());
        (name, HostTensor { shape, data })
    });
    (backbone.collect(), init_classifiers(3, network().parts(), 16, ClassifierKind::Parts { hidden: 8 }, 2))
}

fn metadata() -> String {
    let config = Config::preset(Preset::ReleasedCode).saved_network(&network());
    let classes = ["0002".to_string(), "Zoë \"7\"".to_string()];
    let heads = ClassifiersInfo { kind: ClassifierKind::Parts { hidden: 8 }, relu: false, classes: 2 };
    trained_metadata(&config, &preprocess(), &classes, heads).text().to_string()
}

/// Saves a model with its shift as state.
fn save_model(path: &Path, shift: f32) {
    let (backbone, heads) = model(shift);
    let moments = backbone.iter().map(|(name, tensor)| {
        let data = StateData::F32(tensor.data.iter().map(|v| v * 1e-3).collect());
        (format!("m.{name}"), StateTensor { shape: tensor.shape.clone(), data })
    });
    let mut state: BTreeMap<String, StateTensor> = moments.collect();
    state.insert("position".into(), StateTensor::counts(vec![shift as u64]));
    let tensors = backbone.into_iter().chain(heads).collect();
    save(path, &tensors, &state, &metadata()).unwrap();
}

#[test]
fn a_saved_model_loads_unchanged_with_separate_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("last.safetensors");
    save_model(&path, 5.0);
    let loaded = checkpoint::load(&path, &Settings::default()).unwrap();
    let (backbone, heads) = model(5.0);
    assert!(loaded.tensors == backbone && loaded.classifiers == heads);
    assert_eq!(loaded.preprocess, preprocess());
    assert_eq!(loaded.class_names.unwrap(), ["0002", "Zoë \"7\""]);
    // The released code embeds by the local tokens only.
    let mut wanted = network();
    wanted.gelt.tokens = PartTokens::Local;
    assert_eq!(loaded.config, wanted);

    let state = read_state(&path).unwrap();
    assert_eq!(state["position"].data, StateData::U64(vec![5]));
    assert_eq!(state["m.blocks.1.ls2.gamma"].shape, [16]);
    assert_eq!(state.len(), backbone.len() + 1);

    let text = checkpoint::list(&path).unwrap().1.remove("lat_wgpu").unwrap();
    let entry: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(entry["heads"], serde_json::json!({"hidden": 8, "relu": false, "classes": 2}));
    assert_eq!(entry["format"], 1);
    assert_eq!(entry["model"]["gelt"]["lambda"], 0.8);
}

/// Runs an ignored test of this file in its own process.
fn process(test: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Variable that gives the other process its folder.
const FOLDER: &str = "LAT_TEST_FOLDER";

fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "{} never appeared", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Holds the lock and saves repeatedly until it is killed.
#[test]
#[ignore = "the other process of a_killed_run_leaves_a_complete_model_and_no_lock"]
fn saves_until_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let _lock = FolderLock::acquire(folder).unwrap();
    for shift in 0u16.. {
        save_model(&folder.join("last.safetensors"), f32::from(shift));
    }
}

#[test]
fn a_killed_run_leaves_a_complete_model_and_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("last.safetensors");
    for round in 0..10 {
        let _ = std::fs::remove_file(&path);
        let mut child = process("saves_until_killed", dir.path());
        wait_for(&path);
        let busy = FolderLock::acquire(dir.path());
        assert!(matches!(&busy, Err(Error::Usage(_))), "{busy:?}");
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();

        let shift = match &read_state(&path).unwrap()["position"].data {
            StateData::U64(values) => values[0],
            other => panic!("{other:?}"),
        };
        let loaded = checkpoint::load(&path, &Settings::default()).unwrap();
        assert!(loaded.tensors == model(shift as f32).0);
        let _lock = FolderLock::acquire(dir.path()).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".lock", "last.safetensors"]);
    }
}

/// A run without a network, which logs the inputs of each step.
struct Run<'a> {
    folder: &'a Path,
    images: &'a [usize],
    config: Config,
}

impl Run<'_> {
    /// Continues from `done` steps to `until`, or to the end.
    fn go(&self, done: u64, until: u64) {
        let data = &self.config.data;
        let batch = self.config.schedule.batch_size;
        let sampling = self.config.sampling();
        let steps = sampling.step_counts(self.images, 1).of(0);
        let schedule = Schedule::new(&self.config, 4, steps);
        let log_path = self.folder.join("log.jsonl");
        let mut log = Log::resume(&log_path, done, done as usize / steps).unwrap();
        for step in done + 1..=until.min(schedule.steps()) {
            let (epoch, place) = ((step as usize - 1) / steps, (step as usize - 1) % steps);
            let members = &sampling.batches(self.images, &[], epoch as u64)[place];
            // Represents everything that a step depends on.
            let flipped = |i: usize| flips(data.seed, epoch as u64, place * batch + i, data.flip);
            let seen = members.iter().enumerate().map(|(i, &p)| self.images[p] * 2 + usize::from(flipped(i)));
            let lr = schedule.lr(epoch, place);
            let line = StepLine {
                step,
                epoch,
                loss: seen.fold(0.0, |sum, s| sum * 1.1 + s as f64),
                lr,
                trainable_params: schedule.stage(epoch).first_open as u64,
                images_per_s: 1.0,
                gpu_bytes: 0,
                ranks: None,
                loss_scale: None,
                skipped: false,
            };
            log.step(&line).unwrap();
            if place + 1 == steps {
                let line = EpochLine { epoch, train_loss: lr, seconds: 1.0, ..EpochLine::default() };
                log.epoch(&line).unwrap();
            }
        }
        let lines = epochs(&log_path).unwrap();
        curves::write(&self.folder.join("curves.svg"), &lines, &schedule.openings(), None).unwrap();
    }

    fn files(&self) -> (String, String) {
        let read = |name: &str| std::fs::read_to_string(self.folder.join(name)).unwrap();
        (read("log.jsonl"), read("curves.svg"))
    }
}

#[test]
fn a_stopped_run_continues_like_an_uninterrupted_one() {
    let images = tempfile::tempdir().unwrap();
    for person in ["0001", "0002", "0003"] {
        for frame in 0..7 {
            let name = format!("{person}_c1s1_{frame:06}_01.jpg");
            std::fs::write(images.path().join(name), b"x").unwrap();
        }
    }
    let (set, _) = training_set(images.path(), &LoadOptions::default()).unwrap();
    let (train, val) = set.split(None, 0);
    assert_eq!((train.len(), val), (18, vec![0, 7, 14]));

    let flags = [("schedule.epochs", "5"), ("schedule.batch_size", "4"), ("data.seed", "9")];
    let layers = Layers {
        flags: flags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        ..Layers::default()
    };
    let config = Config::resolve(&layers).unwrap();
    let whole = tempfile::tempdir().unwrap();
    let run = |folder: &Path, config: &Config, done: u64, until: u64| {
        let run = Run { folder, images: &train, config: config.clone() };
        run.go(done, until);
        run.files()
    };
    let wanted = run(whole.path(), &config, 0, u64::MAX);
    // 18 images: four batches of 4 and one of 2, five times.
    assert_eq!(wanted.0.lines().count(), 5 * 5 + 5);

    for (stopped, saved) in [(1, 1), (5, 5), (7, 6), (12, 10), (12, 0), (25, 24), (25, 25)] {
        let folder = tempfile::tempdir().unwrap();
        assert!(!holds_files(folder.path(), &[]).unwrap());
        let _lock = FolderLock::acquire(folder.path()).unwrap();
        let config_path = folder.path().join("config.toml");
        std::fs::write(&config_path, config.to_toml()).unwrap();
        run(folder.path(), &config, 0, stopped);
        assert!(holds_files(folder.path(), &[]).unwrap());
        let resumed = Config::resume(&config_path, &Layers::default()).unwrap();
        assert_eq!(resumed, config);
        assert!(run(folder.path(), &resumed, saved, u64::MAX) == wanted, "stopped {stopped}, saved {saved}");
    }
}
