//! GELU in both forms. The standard library has no error function, so this module has its own.

use crate::shape::Activation;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Largest slope of either form, rounded up: the factor by which an activation can increase an error of its argument.
pub const STEEPEST: f64 = 1.13;

/// erf(z) = 2/√π ∫₀ᶻ exp(-t²) dt, to 1e-14 of its value.
pub fn erf(z: f64) -> f64 {
    if z.abs() < 2.0 { erf_series(z) } else { z.signum() * (1.0 - erfc_fraction(z.abs())) }
}

/// erfc(z) = 1 - erf(z), to 2e-13 of its value wherever that is a normal number.
pub fn erfc(z: f64) -> f64 {
    if z < -2.0 {
        2.0 - erfc_fraction(-z)
    } else if z < 2.0 {
        1.0 - erf_series(z)
    } else {
        erfc_fraction(z)
    }
}

/// erf(z) = 2/√π·exp(-z²)·Σ 2ⁿ·z²ⁿ⁺¹/(1·3·…·(2n+1)). All terms have the same sign, so nothing cancels.
fn erf_series(z: f64) -> f64 {
    let mut term = z;
    let mut sum = z;
    let mut n = 1.0;
    while term.abs() > 1e-18 * sum.abs() {
        term *= 2.0 * z * z / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    2.0 / PI.sqrt() * (-z * z).exp() * sum
}

/// erfc(z) = exp(-z²)/√π / (z + (1/2)/(z + (2/2)/(z + (3/2)/(z + …)))) for z ≥ 2, evaluated from the innermost
/// fraction.
fn erfc_fraction(z: f64) -> f64 {
    // At z = 2 the fraction needs about 100 terms; for larger z fewer.
    let inner = (1..=200).rev().fold(z, |inner, n| z + f64::from(n) / 2.0 / inner);
    (-z * z).exp() / PI.sqrt() / inner
}

/// x·Φ(x) = x/2·erfc(-x/√2).
pub fn gelu(x: f64) -> f64 {
    0.5 * x * erfc(-x * FRAC_1_SQRT_2)
}

/// x·σ(1.702·x).
pub fn quick_gelu(x: f64) -> f64 {
    x / (1.0 + (-1.702 * x).exp())
}

/// The activation in the given form.
pub fn activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => gelu(x),
        Activation::QuickGelu => quick_gelu(x),
    }
}

/// Φ(x) = erfc(-x/√2)/2, the probability that a standard normal variable is below x.
pub fn normal_below(x: f64) -> f64 {
    0.5 * erfc(-x * FRAC_1_SQRT_2)
}

/// φ(x) = exp(-x²/2)/√(2π), the density of the standard normal distribution.
pub fn normal_density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// gelu'(x) = Φ(x) + x·φ(x).
pub fn gelu_derivative(x: f64) -> f64 {
    normal_below(x) + x * normal_density(x)
}

/// quick_gelu'(x) = σ(u)·(1 + u·(1 - σ(u))), u = 1.702·x.
pub fn quick_gelu_derivative(x: f64) -> f64 {
    let u = 1.702 * x;
    // 1 - σ(u) = σ(-u).
    let (s, rest) = (1.0 / (1.0 + (-u).exp()), 1.0 / (1.0 + u.exp()));
    s + s * u * rest
}

/// The derivative of the given form.
pub fn derivative(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => gelu_derivative(x),
        Activation::QuickGelu => quick_gelu_derivative(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, wanted: f64, relative: f64) {
        assert!(((found - wanted) / wanted).abs() <= relative, "{found:e} for {wanted:e}");
    }

    #[test]
    fn error_functions_match_values_known_to_twenty_digits() {
        for (z, wanted) in [
            (0.001, 1.128_378_790_969_236_4e-3),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (1.999, 0.995_301_556_651_370_5),
            (2.0, 0.995_322_265_018_952_7),
            (4.0, 0.999_999_984_582_742_1),
        ] {
            close(erf(z), wanted, 1e-14);
            close(erf(-z), -wanted, 1e-14);
        }
        assert_eq!(erf(0.0), 0.0);
        for (z, wanted) in [
            (0.5, 4.795_001_221_869_535e-1),
            (1.75, 1.332_832_878_081_755_6e-2),
            (1.999, 4.698_443_348_629_49e-3),
            (2.0, 4.677_734_981_047_266e-3),
            (3.0, 2.209_049_699_858_544e-5),
            (6.0, 2.151_973_671_249_891_3e-17),
            (10.0, 2.088_487_583_762_545e-45),
            (20.0, 5.395_865_611_607_901e-176),
            (26.0, 5.663_192_408_856_143e-296),
        ] {
            close(erfc(z), wanted, 2e-13);
            close(erfc(-z), 2.0 - wanted, 1e-15);
        }
    }

    #[test]
    fn both_forms_match_values_known_to_twenty_digits() {
        for (x, wanted) in [
            (0.5, 0.345_731_230_637_006_55),
            (1.0, 0.841_344_746_068_542_9),
            (-1.0, -0.158_655_253_931_457_05),
            (-3.0, -4.049_694_094_890_283_6e-3),
            (-9.0, -1.015_729_565_358_456_6e-18),
        ] {
            close(gelu(x), wanted, 2e-13);
        }
        close(quick_gelu(1.0), 0.845_795_765_932_821_3, 1e-15);
        close(quick_gelu(-3.0), -1.807_130_970_778_596_7e-2, 1e-15);
    }

    #[test]
    fn derivatives_match_values_known_to_twenty_digits() {
        assert_eq!((gelu_derivative(0.0), quick_gelu_derivative(0.0)), (0.5, 0.5));
        for (x, wanted) in [(1.0, 1.083_315_470_587_686_4), (-1.0, -8.331_547_058_768_632e-2)] {
            close(gelu_derivative(x), wanted, 1e-13);
        }
        close(quick_gelu_derivative(1.0), 1.067_779_606_556_334, 1e-14);
        // For large |x| the terms vanish instead of overflowing.
        assert_eq!((gelu_derivative(50.0), quick_gelu_derivative(500.0)), (1.0, 1.0));
        assert_eq!((gelu_derivative(-50.0), quick_gelu_derivative(-500.0)), (0.0, 0.0));
    }

    #[test]
    fn no_slope_is_steeper_than_stated() {
        for i in -6000..6000 {
            let (x, step) = (f64::from(i) * 1e-3, 1e-3);
            for form in [Activation::Gelu, Activation::QuickGelu] {
                let slope = (activation(form, x + step) - activation(form, x)) / step;
                assert!(slope.abs() < STEEPEST, "{form:?} at {x}: {slope}");
                assert!(derivative(form, x).abs() < STEEPEST, "{form:?} at {x}");
            }
        }
    }
}
