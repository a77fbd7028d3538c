//! Damages files, as a function of a seed and the number of the input.

use lat_wgpu::rng;

/// Numbers that often cause faults.
const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    32_767,
    65_535,
    65_536,
    1 << 24,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];

/// Random decisions about one input.
pub struct Dice {
    seed: u64,
    input: u64,
    count: u64,
}

impl Dice {
    /// The decisions for input number `input`.
    pub fn new(seed: u64, input: u64) -> Dice {
        Dice { seed, input, count: 0 }
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.count += 1;
        rng::bits(self.seed, self.input, self.count) as usize % end.max(1)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A changed copy of one of `files`.
pub fn mutated(
    files: &[Vec<u8>],
    words: &[&[u8]],
    longest: usize,
    repair: fn(&mut [u8]),
    dice: &mut Dice,
) -> Vec<u8> {
    let mut bytes = dice.pick(files).clone();
    for _ in 0..=[0, 0, 1, 2, 4, 8][dice.below(6)] {
        change(&mut bytes, files, words, dice);
        bytes.truncate(longest);
    }
    if dice.below(4) > 0 {
        repair(&mut bytes);
    }
    bytes
}

/// A random range of `bytes`, at most `longest` long.
fn range(bytes: &[u8], longest: usize, dice: &mut Dice) -> std::ops::Range<usize> {
    let from = dice.below(bytes.len());
    let length = dice.below(longest.min(bytes.len() - from) + 1);
    from..from + length
}

fn change(bytes: &mut Vec<u8>, files: &[Vec<u8>], words: &[&[u8]], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    match dice.below(14) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
        1 if !bytes.is_empty() => bytes[at] = dice.below(256) as u8,
        2 if !bytes.is_empty() => {
            bytes[at] = *dice.pick(&[0, 1, 127, 128, 255, b'"', b'{', b'[', b',', b'\n', b'-', b'.', b'='])
        }
        3 => bytes.truncate(at),
        4 => {
            let gone = range(bytes, 64, dice);
            bytes.drain(gone);
        }
        // Repeats a piece, sometimes very often, since deep nesting may overflow the stack.
        5 => {
            let part = bytes[range(bytes, 64, dice)].to_vec();
            let times = *dice.pick(&[1, 1, 2, 3, 40, 1000]);
            bytes.splice(at..at, part.repeat(times));
        }
        6 => {
            let word = *dice.pick(words);
            let times = *dice.pick(&[1, 1, 1, 1, 2, 5, 3000]);
            bytes.splice(at..at, word.repeat(times));
        }
        7 => {
            let word = *dice.pick(words);
            let end = (at + word.len()).min(bytes.len());
            bytes.splice(at..end, word.iter().copied());
        }
        // Joins the start of this file and the end of another.
        8 => {
            let other = dice.pick(files);
            let from = dice.below(other.len());
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
        9 => {
            let other = dice.pick(files);
            let part = other[range(other, 256, dice)].to_vec();
            bytes.splice(at..at, part);
        }
        // Writes a binary length of 1, 2, 4 or 8 bytes in either byte order.
        10 | 11 => {
            let near = [bytes.len() as u64, (bytes.len() as u64).wrapping_sub(at as u64)];
            let number = match dice.below(3) {
                0 => dice.pick(&near).wrapping_add(dice.below(17) as u64).wrapping_sub(8),
                _ => *dice.pick(&NUMBERS),
            };
            let width = 1 << dice.below(4);
            let mut field = number.to_le_bytes()[..width].to_vec();
            if dice.below(2) == 0 {
                field.reverse();
            }
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, field);
        }
        // Replaces a number in digits.
        12 => {
            let is_digit = |&at: &usize| bytes[at].is_ascii_digit();
            let Some(from) = (at..bytes.len()).find(is_digit) else { return };
            let length = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let number = dice.pick(&NUMBERS).to_string();
            let text = match dice.below(8) {
                0 => format!("-{number}"),
                1 => format!("{number}e9"),
                2 => format!("0.{number}"),
                _ => number,
            };
            bytes.splice(from..from + length, text.into_bytes());
        }
        _ => {
            let noise: Vec<u8> = (0..dice.below(16)).map(|_| dice.below(256) as u8).collect();
            bytes.splice(at..at, noise);
        }
    }
}

/// For formats without anything to repair.
pub fn nothing(_: &mut [u8]) {}

/// Repairs the checksums of a PNG's chunks, and the length in a WebP's header.
pub fn checksums(bytes: &mut [u8]) {
    if bytes.starts_with(b"RIFF") && bytes.len() >= 8 {
        let length = (bytes.len() - 8) as u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
    }
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return;
    }
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = at + 8 + length;
        if bytes.len() < end + 4 {
            return;
        }
        let sum = crc32(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
}

/// CRC-32 of ISO 3309, as in PNG.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

/// Repairs the length of a safetensors header; the seeds hold no `}` after it.
pub fn header_length(bytes: &mut [u8]) {
    if let Some(last) = bytes.iter().rposition(|&byte| byte == b'}').filter(|last| *last >= 8) {
        let spaces = bytes[last + 1..].iter().take_while(|&&byte| byte == b' ').count();
        let length = (last + 1 + spaces - 8) as u64;
        bytes[..8].copy_from_slice(&length.to_le_bytes());
    }
}

/// Removes the checksums from the directory of a zip archive. PyTorch may leave them out.
pub fn no_checksums(bytes: &mut [u8]) {
    for at in 0..bytes.len().saturating_sub(20) {
        if bytes[at..].starts_with(b"PK\x01\x02") {
            bytes[at + 16..at + 20].fill(0);
        }
    }
}

/// Repairs the mark at the end of a Parquet file.
pub fn parquet_ends(bytes: &mut [u8]) {
    let Some(mark) = bytes.len().checked_sub(4) else { return };
    bytes[mark..].copy_from_slice(b"PAR1");
}
