//! sum + addend.

use super::Exact;

/// sum + addend of one element.
pub fn forward(sum: f32, addend: f32) -> Exact {
    let value = f64::from(sum) + f64::from(addend);
    Exact { value, scale: value.abs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds() {
        assert_eq!(forward(1.5, -4.0), Exact { value: -2.5, scale: 2.5 });
    }
}
