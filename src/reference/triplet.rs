//! Batch-hard triplet loss and its gradient.

use super::Exact;

/// The smallest distance. Closer images have this distance, and no direction.
const LEAST: f64 = 1e-6;

/// Distances (B, B) of the rows of `parts` (B, L).
pub fn distances(parts: &[f32], batch: usize) -> Vec<Exact> {
    let rows: Vec<&[f32]> = parts.chunks(parts.len() / batch).collect();
    let distance = |a: &[f32], b: &[f32]| {
        let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        let value = squares.sum::<f64>().sqrt().max(LEAST);
        Exact { value, scale: value }
    };
    rows.iter().flat_map(|a| rows.iter().map(move |b| distance(a, b))).collect()
}

/// The loss of an anchor and, if it has a gradient, its two images: the farthest with the same label and the nearest
/// with another label. Without a margin, the loss is log(1 + exp(z)), for z the difference of the two distances.
pub fn mine(
    distances: &[f64],
    labels: &[u32],
    anchor: usize,
    margin: Option<f64>,
) -> (Exact, Option<[usize; 2]>) {
    let batch = labels.len();
    let row = &distances[anchor * batch..][..batch];
    let alike = |&other: &usize| labels[other] == labels[anchor];
    // Reversed, because `max_by` returns the last of equal elements, and the first is needed.
    let farthest =
        (0..batch).rev().filter(alike).filter(|&j| j != anchor).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let nearest = (0..batch).filter(|j| !alike(j)).min_by(|&a, &b| row[a].total_cmp(&row[b]));
    let (Some(farthest), Some(nearest)) = (farthest, nearest) else {
        return (Exact::default(), None);
    };
    let z = row[farthest] - row[nearest];
    let value = margin.map_or_else(|| z.max(0.0) + (-z.abs()).exp().ln_1p(), |margin| (z + margin).max(0.0));
    let loss = Exact { value, scale: row[farthest] + row[nearest] + margin.unwrap_or(1.0) };
    (loss, (margin.is_none() || value > 0.0).then_some([farthest, nearest]))
}

/// `before` (B, L) plus the gradient of the mean loss over the batch. `choices` holds the images that [`mine`] returns
/// for each anchor. `soft`: without a margin.
pub fn gradient(
    parts: &[f32],
    distances: &[f64],
    choices: &[Option<[usize; 2]>],
    before: &[f32],
    soft: bool,
) -> Vec<Exact> {
    let batch = choices.len();
    let length = parts.len() / batch;
    let mut sums: Vec<Exact> =
        before.iter().map(|&v| Exact { value: v.into(), scale: f64::from(v).abs() }).collect();
    let choices = choices.iter().enumerate().filter_map(|(anchor, choice)| Some((anchor, (*choice)?)));
    for (anchor, pair) in choices {
        let [far, near] = pair.map(|other| distances[anchor * batch + other]);
        // The derivative of the loss by the difference of the distances, and the factor of its rounding errors.
        let (weight, spread) =
            if soft { (1.0 / (1.0 + (near - far).exp()), 1.0 + (far - near).abs()) } else { (1.0, 1.0) };
        for (other, sign) in pair.into_iter().zip([1.0, -1.0]) {
            let distance = distances[anchor * batch + other];
            if distance <= LEAST {
                continue;
            }
            for k in 0..length {
                let (here, there) = (anchor * length + k, other * length + k);
                let difference = f64::from(parts[here]) - f64::from(parts[there]);
                let term = weight * sign * difference / (distance * batch as f64);
                sums[here].value += term;
                sums[there].value -= term;
                sums[here].scale += spread * term.abs();
                sums[there].scale += spread * term.abs();
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_gradients_are_pytorchs() {
        // f = torch.tensor([[0, 0], [3, 4], [0, 2], [6, 8], [5, 5]], dtype=torch.float64, requires_grad=True)
        // y = torch.tensor([0, 0, 1, 1, 2]); same = y[:, None] == y; me = torch.eye(5, dtype=torch.bool)
        // d = (f[:, None] - f).square().sum(2).clamp(min=1e-12).sqrt()
        // p = d.masked_fill(~same | me, -1).amax(1); n = d.masked_fill(same, 1e9).amin(1)
        // l = torch.where(p > 0, (p - n + 0.3).clamp(min=0), 0); (l.sum() / 5).backward(); print(l, f.grad)
        let parts = [0.0, 0.0, 3.0, 4.0, 0.0, 2.0, 6.0, 8.0, 5.0, 5.0];
        let labels = [0, 0, 1, 1, 2];
        let all: Vec<f64> = distances(&parts, 5).iter().map(|d| d.value).collect();
        let mined: Vec<_> = (0..5).map(|anchor| mine(&all, &labels, anchor, Some(0.3))).collect();
        let losses = [3.3, 3.06393202250021, 6.785281374238569, 5.623003714070189, 0.0];
        for ((found, _), wanted) in mined.iter().zip(losses) {
            assert!((found.value - wanted).abs() < 1e-14, "{found:?} for {wanted}");
        }
        let choices: Vec<_> = mined.iter().map(|m| m.1).collect();
        assert_eq!(choices, [Some([1, 2]), Some([0, 4]), Some([3, 0]), Some([2, 4]), None]);
        let found = gradient(&parts, &all, &choices, &[1.0; 10], false);
        let wanted = [
            [-0.24, 0.08000000000000002],
            [0.41888543819998314, 0.40944271909999164],
            [-0.28284271247461906, -0.682842712474619],
            [0.21959715927125148, 0.09310605286451631],
            [-0.1156398849966156, 0.10029394051011116],
        ];
        for (found, wanted) in found.iter().zip(wanted.into_iter().flatten()) {
            assert!((found.value - 1.0 - wanted).abs() < 1e-14, "{found:?} for {wanted}");
        }
    }

    #[test]
    fn soft_losses_and_gradients_are_pytorchs() {
        // As above, with l = torch.where(p > 0, torch.nn.functional.softplus(p - n), 0).
        let parts = [0.0, 0.0, 3.0, 4.0, 0.0, 2.0, 6.0, 8.0, 5.0, 5.0];
        let labels = [0, 0, 1, 1, 2];
        let all: Vec<f64> = distances(&parts, 5).iter().map(|d| d.value).collect();
        let mined: Vec<_> = (0..5).map(|anchor| mine(&all, &labels, anchor, None)).collect();
        let losses = [3.048587351573742, 2.8250679416594724, 6.486805942897683, 5.32786993413441, 0.0];
        for ((found, _), wanted) in mined.iter().zip(losses) {
            assert!((found.value - wanted).abs() < 1e-14, "{found:?} for {wanted}");
        }
        let choices: Vec<_> = mined.iter().map(|m| m.1).collect();
        let found = gradient(&parts, &all, &choices, &[0.0; 10], true);
        let wanted = [
            [-0.22719233992616128, 0.08728702404400127],
            [0.3954690438596547, 0.3870614718682951],
            [-0.2819407544589665, -0.6721508984045161],
            [0.21900222041831163, 0.09312515233700183],
            [-0.10533816989283855, 0.10467725015521796],
        ];
        for (found, wanted) in found.iter().zip(wanted.into_iter().flatten()) {
            assert!((found.value - wanted).abs() < 1e-14, "{found:?} for {wanted}");
        }
        // Far on either side, the loss is z or almost 0, and there is a choice.
        for (z, wanted) in [(800.0, 800.0), (-800.0, 0.0)] {
            let (loss, choice) = mine(&[1e-6, 900.0 + z, 900.0], &[0, 0, 1], 0, None);
            assert_eq!((loss.value, choice), (wanted, Some([1, 2])));
        }
    }

    #[test]
    fn the_first_of_equals_is_taken() {
        let row = [0.0, 2.0, 2.0, 1.0, 1.0];
        let distances: Vec<f64> = row.repeat(5);
        assert_eq!(mine(&distances, &[7, 7, 7, 8, 9], 0, Some(0.3)).1, Some([1, 3]));
    }

    #[test]
    fn an_anchor_without_a_pair_has_no_loss() {
        let distances = [1e-6, 1.0, 1.0, 1e-6];
        for margin in [Some(0.3), None] {
            assert_eq!(mine(&distances, &[3, 3], 0, margin), (Exact::default(), None));
            assert_eq!(mine(&distances, &[3, 4], 1, margin), (Exact::default(), None));
            assert_eq!(mine(&[1e-6], &[3], 0, margin), (Exact::default(), None));
        }
    }

    #[test]
    fn identical_images_have_no_direction() {
        let parts = [1.0, 1.0, 1.5];
        let all: Vec<f64> = distances(&parts, 3).iter().map(|d| d.value).collect();
        assert_eq!(all[1], 1e-6);
        let (loss, choice) = mine(&all, &[0, 0, 1], 0, Some(1.0));
        assert!((loss.value - (0.5 + 1e-6)).abs() < 1e-15 && choice == Some([1, 2]));
        // Only the image of the other person causes a gradient.
        let found = gradient(&parts, &all, &[choice, None, None], &[0.0; 3], false);
        assert_eq!(found.iter().map(|g| g.value).collect::<Vec<_>>(), [1.0 / 3.0, 0.0, -1.0 / 3.0]);
    }
}
