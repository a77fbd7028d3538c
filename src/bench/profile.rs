//! The breakdown of a plan's time: by kernel, phase, layer and dispatch, and as a trace for Chrome and Perfetto.

use crate::gpu::{DispatchTime, Phase, PlanProfile};
use serde_json::{Value, json};
use std::fmt::Write;

/// The total of a group of dispatches.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Name of the group.
    pub name: String,
    /// Number of dispatches.
    pub count: usize,
    /// Total seconds.
    pub seconds: f64,
    /// Total floating-point operations.
    pub flops: f64,
}

/// Returns the word for a phase.
fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::Optimiser => "optimiser",
    }
}

/// Returns the layer of a dispatch by its label: `blocks.3` for `backward.blocks.3.fc1.dweight` and `adam.blocks.3`.
fn layer(phase: Phase, label: &str) -> String {
    let heads: &[&str] = match phase {
        Phase::Forward => &[],
        Phase::Backward => &["backward."],
        Phase::Optimiser => &["adam.", "sgd.", "average.", "gradnorm."],
    };
    let rest = heads.iter().find_map(|head| label.strip_prefix(head)).unwrap_or(label);
    // The accumulation of a group's gradients over micro-batches belongs to the group.
    let rest = match rest.find("accumulate.") {
        Some(at) => &rest[at + "accumulate.".len()..],
        None => rest,
    };
    // The name of a block includes its number.
    let parts = if rest.starts_with("blocks.") { 2 } else { 1 };
    rest.split('.').take(parts).collect::<Vec<_>>().join(".")
}

/// Replaces the number of the block in a label with `*`.
fn alike(label: &str) -> String {
    let Some(at) = label.find("blocks.") else { return label.to_string() };
    let (head, rest) = label.split_at(at + "blocks.".len());
    format!("{head}*{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Sums dispatches by name, and sorts by time, the longest first.
pub fn shares(dispatches: &[DispatchTime], name: impl Fn(&DispatchTime) -> String) -> Vec<Share> {
    let mut found: Vec<Share> = Vec::new();
    for dispatch in dispatches {
        let name = name(dispatch);
        let place = found.iter().position(|share| share.name == name).unwrap_or_else(|| {
            found.push(Share { name, count: 0, seconds: 0.0, flops: 0.0 });
            found.len() - 1
        });
        let share = &mut found[place];
        (share.count, share.seconds, share.flops) =
            (share.count + 1, share.seconds + dispatch.seconds, share.flops + dispatch.flops);
    }
    found.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    found
}

/// Returns tables of kernels, phases, layers and dispatches by their share of the time.
pub fn tables(title: &str, profile: &PlanProfile) -> String {
    let PlanProfile { dispatches, whole, rounds } = profile;
    let total: f64 = dispatches.iter().map(|dispatch| dispatch.seconds).sum();
    let trains = dispatches.iter().any(|dispatch| dispatch.phase != Phase::Forward);
    let layer_of = |dispatch: &DispatchTime| {
        let layer = layer(dispatch.phase, &dispatch.label);
        if trains { format!("{} {layer}", word(dispatch.phase)) } else { layer }
    };
    let mut groups = vec![("kernel", shares(dispatches, |dispatch| dispatch.entry.to_string()))];
    if trains {
        groups.push(("phase", shares(dispatches, |dispatch| word(dispatch.phase).to_string())));
    }
    groups.push(("layer", shares(dispatches, layer_of)));
    groups.push((
        "dispatch",
        shares(dispatches, |dispatch| format!("{} ({})", alike(&dispatch.label), dispatch.entry)),
    ));

    let mut text = format!(
        "profile of {title}: {} dispatches take {:.2} ms one at a time (minimum of {rounds}), {:.2} ms together\n",
        dispatches.len(),
        1e3 * total,
        1e3 * whole
    );
    let names = groups.iter().flat_map(|(_, shares)| shares.iter().map(|share| share.name.chars().count()));
    let width = names.max().unwrap_or(0).max(6);
    for (head, shares) in groups {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{head:<width$} {:>6} {:>10} {:>7} {:>9}", "count", "ms", "share", "GFLOP/s");
        for Share { name, count, seconds, flops } in shares {
            let _ = writeln!(
                text,
                "{name:<width$} {count:>6} {:>10.3} {:>5.1} % {:>9.1}",
                1e3 * seconds,
                100.0 * seconds / total,
                flops / seconds / 1e9
            );
        }
    }
    text
}

/// Returns profiles with their titles in the format of Chrome's tracing. Each is a process with a track of layers and a
/// track of kernels, in which dispatches follow each other without gaps.
pub fn trace(profiles: &[(String, PlanProfile)]) -> Value {
    const LAYERS: usize = 1;
    const KERNELS: usize = 2;
    let mut events = Vec::new();
    for (process, (title, profile)) in profiles.iter().enumerate() {
        let mut name = |what: &str, track: usize, name: &str| {
            events.push(
                json!({ "name": what, "ph": "M", "pid": process, "tid": track, "args": { "name": name } }),
            );
        };
        name("process_name", 0, title);
        name("thread_name", LAYERS, "layers");
        name("thread_name", KERNELS, "kernels");
        let mut now = 0.0;
        let mut open: Option<(Phase, String, f64)> = None;
        let close = |events: &mut Vec<Value>, open: &mut Option<(Phase, String, f64)>, now: f64| {
            if let Some((phase, layer, start)) = open.take() {
                events.push(json!({
                    "name": layer, "cat": word(phase), "ph": "X", "pid": process, "tid": LAYERS,
                    "ts": start, "dur": now - start,
                }));
            }
        };
        for dispatch in &profile.dispatches {
            let (phase, layer) = (dispatch.phase, layer(dispatch.phase, &dispatch.label));
            if !open.as_ref().is_some_and(|(old, name, _)| (*old, name) == (phase, &layer)) {
                close(&mut events, &mut open, now);
                open = Some((phase, layer, now));
            }
            let duration = 1e6 * dispatch.seconds;
            events.push(json!({
                "name": dispatch.entry, "cat": dispatch.kernel, "ph": "X", "pid": process, "tid": KERNELS,
                "ts": now, "dur": duration,
                "args": {
                    "label": dispatch.label,
                    "phase": word(phase),
                    "flops": dispatch.flops,
                    "bytes": dispatch.bytes,
                    "gflops": dispatch.flops / dispatch.seconds / 1e9,
                    "gbps": dispatch.bytes / dispatch.seconds / 1e9,
                },
            }));
            now += duration;
        }
        close(&mut events, &mut open, now);
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dispatch(phase: Phase, label: &str, entry: &'static str, milliseconds: f64) -> DispatchTime {
        let (label, seconds) = (label.to_string(), 1e-3 * milliseconds);
        DispatchTime { phase, label, kernel: entry, entry, seconds, flops: 1e6, bytes: 1e3 }
    }

    fn step() -> PlanProfile {
        let dispatches = vec![
            dispatch(Phase::Forward, "image", "image", 1.0),
            dispatch(Phase::Forward, "blocks.0.attn.qkv", "gemm_nt", 2.0),
            dispatch(Phase::Forward, "blocks.0.fc1", "gemm_nt", 3.0),
            dispatch(Phase::Forward, "blocks.1.attn.qkv", "gemm_nt", 4.0),
            dispatch(Phase::Backward, "backward.blocks.1.fc1.dweight", "gemm_tn", 5.0),
            dispatch(Phase::Optimiser, "gradnorm.blocks.1", "gradnorm_partial", 0.5),
            dispatch(Phase::Optimiser, "adam.blocks.1", "adam", 0.5),
        ];
        PlanProfile { dispatches, whole: 0.015, rounds: 3 }
    }

    #[test]
    fn labels_name_the_layer() {
        for (label, phase, name) in [
            ("patch_embed", Phase::Forward, "patch_embed"),
            ("blocks.11.attn.qkv", Phase::Forward, "blocks.11"),
            ("heads.bn.running", Phase::Forward, "heads"),
            ("backward.blocks.3.fc1.dweight", Phase::Backward, "blocks.3"),
            ("backward.norm.dz", Phase::Backward, "norm"),
            ("backward.blocks.3.accumulate.blocks.3", Phase::Backward, "blocks.3"),
            ("backward.accumulate.embeddings", Phase::Backward, "embeddings"),
            ("adam.blocks.3", Phase::Optimiser, "blocks.3"),
            ("gradnorm.heads", Phase::Optimiser, "heads"),
            ("gradnorm", Phase::Optimiser, "gradnorm"),
        ] {
            assert_eq!(layer(phase, label), name, "{label}");
        }
        assert_eq!(alike("backward.blocks.12.fc1"), "backward.blocks.*.fc1");
        assert_eq!(alike("gelt"), "gelt");
    }

    #[test]
    fn shares_sum_up_the_longest_first() {
        let profile = step();
        let kernels = shares(&profile.dispatches, |dispatch| dispatch.entry.to_string());
        let found: Vec<(&str, usize)> = kernels.iter().map(|share| (&*share.name, share.count)).collect();
        assert_eq!(
            found,
            [("gemm_nt", 3), ("gemm_tn", 1), ("image", 1), ("gradnorm_partial", 1), ("adam", 1)]
        );
        assert!((kernels[0].seconds - 9e-3).abs() < 1e-12 && kernels[0].flops == 3e6);
        let text = tables("a step", &profile);
        assert!(
            text.starts_with(
                "profile of a step: 7 dispatches take 16.00 ms one at a time (minimum of 3), 15.00 ms"
            ),
            "{text}"
        );
        for (name, share) in [
            ("gemm_nt", " 9.000 "),
            ("forward", "62.5 %"),
            ("backward blocks.1", " 5.000 "),
            ("blocks.*.attn.qkv (gemm_nt)", "37.5 %"),
        ] {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            assert!(line.is_some_and(|line| line.contains(share)), "{name} {share} in: {text}");
        }
        // A forward pass alone has no phases.
        let forward = PlanProfile { dispatches: profile.dispatches[..4].to_vec(), ..profile };
        assert!(!tables("a batch", &forward).contains("forward"));
    }

    #[test]
    fn a_trace_has_two_tracks_that_end_together() {
        let trace = trace(&[("one".to_string(), step()), ("two".to_string(), step())]);
        let events = trace["traceEvents"].as_array().unwrap();
        for process in 0..2 {
            let track = |track: u64| -> Vec<(f64, f64, &str)> {
                let of = events.iter().filter(|e| e["ph"] == "X" && e["pid"] == process && e["tid"] == track);
                of.map(|e| {
                    (e["ts"].as_f64().unwrap(), e["dur"].as_f64().unwrap(), e["name"].as_str().unwrap())
                })
                .collect()
            };
            let (layers, kernels) = (track(1), track(2));
            assert_eq!(kernels.len(), 7);
            let names: Vec<&str> = layers.iter().map(|(.., name)| *name).collect();
            assert_eq!(names, ["image", "blocks.0", "blocks.1", "blocks.1", "blocks.1"]);
            for track in [layers, kernels] {
                let mut now = 0.0;
                for (start, duration, name) in track {
                    assert!((start - now).abs() < 1e-6, "{name} begins at {start}, not at {now}");
                    now = start + duration;
                }
                assert!((now - 16_000.0).abs() < 1e-6, "{now}");
            }
        }
        let titles: Vec<&str> = (events.iter().filter(|e| e["name"] == "process_name"))
            .map(|e| e["args"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(titles, ["one", "two"]);
    }
}
