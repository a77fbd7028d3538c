//! Integers of variable length, as in Thrift: seven bits per byte, the lowest first. All bytes but
//! the last have the highest bit set.

/// Takes an integer from the front of `bytes`; `None` if it is cut off or longer than ten bytes.
pub fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_end_at_a_byte_without_the_highest_bit() {
        let largest = [&[0xff; 9][..], &[1]].concat();
        for (bytes, number) in [(&[0][..], 0), (&[127], 127), (&[0xac, 0x02], 300), (&largest, u64::MAX)] {
            let longer = [bytes, &[7]].concat();
            let mut rest = &longer[..];
            assert_eq!((read(&mut rest), rest), (Some(number), &[7][..]));
            assert_eq!(read(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(read(&mut &[0xff; 12][..]), None);
    }
}
