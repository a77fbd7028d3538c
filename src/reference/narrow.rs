//! Rounding to f16, and values that f16 can't represent.

/// The largest finite f16.
pub const LARGEST: f32 = 65504.0;

/// `wide` rounded to the nearest f16, ties to even. Beyond [`LARGEST`], and for NaN: infinity.
pub fn to_f16(wide: f32) -> f64 {
    if wide.is_nan() || wide.abs() > LARGEST {
        return f64::INFINITY;
    }
    // Ten fraction bits after the leading one; below 2^-14 the step is 2^-24.
    let magnitude = f64::from(wide.abs());
    let exponent = magnitude.log2().floor().max(-14.0);
    let unit = (exponent - 10.0).exp2();
    let steps = magnitude / unit;
    let (floor, rest) = (steps.floor(), steps.fract());
    let up = rest > 0.5 || (rest == 0.5 && floor % 2.0 == 1.0);
    (if up { floor + 1.0 } else { floor }) * unit * f64::from(wide.signum())
}

#[cfg(test)]
mod tests {
    use super::to_f16;

    #[test]
    fn results_are_those_of_ieee_754() {
        // numpy.float16(x) of each.
        for (wide, narrow) in [
            (1.0, 1.0),
            (0.1, 0.0999755859375),
            (-2049.0, -2048.0),
            (2051.0, 2052.0),
            (1e-7, 1.1920928955078125e-07),
            (2e-8, 0.0),
            (65504.0, 65504.0),
        ] {
            assert_eq!(to_f16(wide), narrow, "{wide}");
        }
        assert!(to_f16(70000.0).is_infinite() && to_f16(f32::NAN).is_infinite());
    }
}
