//! The update of the prototypes, one vector per person.

use super::Exact;

/// Settings of the update.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Share of the old prototype.
    pub momentum: f32,
    /// Temperature; prototypes are stored divided by it.
    pub temperature: f32,
    /// Takes only the image that is least similar.
    pub hard: bool,
}

/// Prototypes (K, L) after a batch of embeddings (B, L).
pub fn update(memory: &[f32], embeddings: &[f32], labels: &[u32], rule: Rule) -> Vec<Exact> {
    let length = embeddings.len() / labels.len();
    let [momentum, temperature] = [rule.momentum, rule.temperature].map(f64::from);
    let mut stored: Vec<f64> = memory.iter().map(|&v| f64::from(v)).collect();
    let mut steps = vec![0.0; memory.len() / length];
    let image = |b: usize| embeddings[b * length..][..length].iter().map(|&v| f64::from(v));
    let average = |prototype: &mut [f64], b: usize| {
        let sums: Vec<f64> = prototype
            .iter()
            .zip(image(b))
            .map(|(m, x)| momentum * temperature * m + (1.0 - momentum) * x)
            .collect();
        let norm = sums.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        prototype.iter_mut().zip(sums).for_each(|(m, sum)| *m = sum / (norm * temperature));
    };
    for first in 0..labels.len() {
        let label = labels[first];
        if labels[..first].contains(&label) {
            continue;
        }
        let prototype = &mut stored[label as usize * length..][..length];
        let mut own: Vec<usize> = (first..labels.len()).filter(|&b| labels[b] == label).collect();
        if rule.hard {
            let similarity = |b: &usize| image(*b).zip(prototype.iter()).map(|(x, m)| x * m).sum::<f64>();
            let hardest = own.iter().copied().min_by(|a, b| similarity(a).total_cmp(&similarity(b)));
            own = hardest.into_iter().collect();
        }
        own.iter().for_each(|&b| average(prototype, b));
        steps[label as usize] = own.len() as f64;
    }
    // An untouched prototype keeps its bits; an error of the norm scales with the length, which is one.
    let scale = |i: usize, value: f64| value.abs() + steps[i / length] / temperature;
    stored.iter().enumerate().map(|(i, &value)| Exact { value, scale: scale(i, value) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { momentum: 0.25, temperature: 0.5, hard: false };

    fn values(memory: &[f32], embeddings: &[f32], labels: &[u32], rule: Rule) -> Vec<f64> {
        update(memory, embeddings, labels, rule).iter().map(|v| v.value).collect()
    }

    #[test]
    fn images_of_a_person_count_in_the_order_of_the_batch() {
        // Person 1 begins at (1, 0) and sees (0, 1), then (1, 0). Person 0 has no image.
        let memory = [0.0, 2.0, 2.0, 0.0];
        let found = values(&memory, &[0.0, 1.0, 1.0, 0.0], &[1, 1], RULE);
        let unit = |x: f64, y: f64| [x / x.hypot(y), y / x.hypot(y)];
        let [x, y] = unit(0.25, 0.75);
        let [x, y] = unit(0.25 * x + 0.75, 0.25 * y);
        for (found, wanted) in found.iter().zip([0.0, 2.0, 2.0 * x, 2.0 * y]) {
            assert!((found - wanted).abs() < 1e-15, "{found} for {wanted}");
        }
    }

    #[test]
    fn the_hard_update_takes_the_least_similar_image() {
        let (memory, labels) = ([2.0, 0.0], [0, 0, 0]);
        let images = [1.0, 0.0, -0.6, 0.8, 0.6, 0.8];
        let hard = values(&memory, &images, &labels, Rule { hard: true, ..RULE });
        let alone = values(&memory, &images[2..4], &labels[..1], RULE);
        assert_eq!(hard, alone);
    }
}
