//! Integers of variable length, as in protocol buffers and Thrift: seven bits per byte, the lowest first. All bytes but
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

/// Returns the bytes of an integer.
pub fn bytes(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_written() {
        assert_eq!(bytes(300), [0xac, 0x02]);
        for number in [0, 1, 127, 128, 300, 1 << 40, u64::MAX] {
            let written = [bytes(number), vec![7]].concat();
            let mut rest = &written[..];
            assert_eq!((read(&mut rest), rest), (Some(number), &[7][..]));
            assert_eq!(read(&mut &written[..written.len() - 2]), None);
        }
        assert_eq!(read(&mut &[0xff; 12][..]), None);
    }
}
