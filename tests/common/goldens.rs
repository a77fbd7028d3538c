//! Goldens written by `tools/make_goldens.py`: a model file and PyTorch's results for it.

use lat_wgpu::checkpoint::Settings;
use lat_wgpu::shape::Normalize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The settings of a golden, from the entry `settings` of its metadata.
pub fn settings(metadata: &BTreeMap<String, String>) -> Settings {
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_str(&metadata["settings"]).unwrap();
    // Without an entry PyTorch used ImageNet's mean and deviation, whatever the names in the file.
    let mut settings = Settings { normalize: Some(Normalize::Imagenet), ..Settings::default() };
    for (key, value) in entries {
        match key.as_str() {
            "size" => settings.size = Some(value.as_str().unwrap().parse().unwrap()),
            "stride" => settings.stride = Some(value.as_u64().unwrap() as usize),
            "heads" => settings.heads = Some(value.as_u64().unwrap() as usize),
            "ln_eps" => settings.ln_eps = Some(value.as_f64().unwrap() as f32),
            "lambda" => settings.lambda = Some(value.as_f64().unwrap() as f32),
            "act" => settings.act = Some(serde_json::from_value(value).unwrap()),
            "normalize" => settings.normalize = Some(serde_json::from_value(value).unwrap()),
            "lambda_on" => settings.lambda_on = Some(serde_json::from_value(value).unwrap()),
            "tokens" => settings.tokens = Some(serde_json::from_value(value).unwrap()),
            "parts" => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                settings.parts = Some(serde_json::from_value(text.into()).unwrap());
            }
            other => panic!("unknown setting {other}"),
        }
    }
    settings
}

/// Every `NAME.golden.safetensors` with its model.
#[allow(dead_code, reason = "not every test binary walks over all goldens")]
pub fn pairs() -> Vec<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let mut pairs: Vec<(PathBuf, PathBuf)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".golden.safetensors"))
        .map(|golden| {
            let model = golden.to_string_lossy().replace(".golden.", ".model.");
            (PathBuf::from(model), golden)
        })
        .collect();
    pairs.sort();
    pairs
}
