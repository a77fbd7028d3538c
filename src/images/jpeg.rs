//! Checks that a JPEG file is complete.
//!
//! Decoders silently fill missing blocks with grey. So this module walks the entropy-coded data block by block, without
//! computing pixels. It finds scans that end before their last block, components with missing coefficients, and a
//! missing end marker (ITU-T T.81; comments name its sections). It walks baseline, extended and progressive Huffman
//! coding. The decoder refuses other kinds, except two rare layouts that it decodes to a wrong image; this module
//! refuses those.

/// Bits of a Huffman table look-up. Longer codes are decoded bit by bit.
const LOOKUP_BITS: u32 = 8;
/// Largest number of scans, as in the decoder; no encoder writes as many. Each scan walks the whole image, so a small
/// file could take hours.
const MAX_SCANS: usize = 100;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const DHT: u8 = 0xc4;
const DRI: u8 = 0xdd;

/// Checks that the file has every block of every scan, and the end marker.
///
/// `size` is (width, height) in pixels, as the decoder read them.
///
/// # Errors
/// The reason: "truncated …", "damaged …" or "unsupported kind …".
pub fn check_complete(bytes: &[u8], size: (usize, usize)) -> Result<(), String> {
    let mut walk = Walk { bytes, at: 0, ..Walk::default() };
    if bytes.get(..2) != Some(&[0xff, SOI]) {
        return Err("damaged: no start marker".to_string());
    }
    walk.at = 2;
    let mut scans = 0;
    loop {
        match walk.next_marker().ok_or("truncated: no end marker")? {
            EOI => return walk.all_coefficients_seen(),
            // Markers without a segment: restarts after a scan, and TEM.
            0xd0..=0xd7 | 0x01 => {}
            code => {
                let segment = walk.segment().ok_or("truncated: the data ends inside the header")?;
                match code {
                    0xc0..=0xc2 => walk.frame(code == 0xc2, segment, size)?,
                    DHT => walk.huffman_tables(segment)?,
                    DRI => match segment {
                        &[high, low, ..] => {
                            walk.restart_interval = usize::from(u16::from_be_bytes([high, low]))
                        }
                        _ => return Err("damaged: bad restart interval".to_string()),
                    },
                    SOS => {
                        scans += 1;
                        if scans > MAX_SCANS {
                            return Err(format!("damaged: more than {MAX_SCANS} scans"));
                        }
                        walk.scan(segment)?;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Refuses unsupported kinds of JPEG by their names, and a header that is cut off.
///
/// # Errors
/// The reason.
pub fn check_kind(bytes: &[u8]) -> Result<(), String> {
    let mut walk = Walk { bytes, at: 2, ..Walk::default() };
    let cut = || "truncated: the data ends inside the header".to_string();
    loop {
        let kind = match walk.next_marker().ok_or_else(cut)? {
            EOI => return Ok(()),
            SOS => return walk.segment().map(|_| ()).ok_or_else(cut),
            0xc3 => "lossless coding",
            0xc5..=0xc7 => "hierarchical coding",
            // The coder's conditioning may come before the frame.
            0xc9..=0xcf => "arithmetic coding",
            0xf7 => "JPEG-LS coding",
            0xd0..=0xd7 | 0x01 => continue,
            _ => {
                walk.segment().ok_or_else(cut)?;
                continue;
            }
        };
        return Err(format!(
            "a JPEG with {kind}, which isn't supported; convert it, for example with `jpegtran old.jpg > new.jpg`"
        ));
    }
}

/// State of the walk through a file.
#[derive(Default)]
struct Walk<'a> {
    bytes: &'a [u8],
    /// Next byte to read outside entropy-coded data.
    at: usize,
    progressive: bool,
    components: Vec<Component>,
    /// MCUs across and down in a scan of several components.
    mcus: (usize, usize),
    restart_interval: usize,
    dc_tables: [Option<Huffman>; 4],
    ac_tables: [Option<Huffman>; 4],
}

/// One colour component of the frame.
struct Component {
    id: u8,
    /// Blocks of one MCU, across and down (sampling factors H and V).
    sampling: (usize, usize),
    /// Blocks of a scan of this component alone, across and down (A.2.2).
    blocks: (usize, usize),
    /// Blocks in a row of `nonzero`, padded to whole MCUs.
    stride: usize,
    /// For progressive files: bit k of a block is set if its coefficient k is non-zero so far.
    nonzero: Vec<u64>,
    /// Missing bits of each coefficient; `u8::MAX` before its first scan.
    missing_bits: [u8; 64],
}

/// Coefficients and bits of one scan (B.2.3).
#[derive(Clone, Copy)]
struct Band {
    /// First and last coefficient, in zigzag order.
    first: usize,
    last: usize,
    /// Successive approximation: the bit position of the previous scan, 0 for the first one; and of this scan.
    high: u8,
    low: u8,
}

impl<'a> Walk<'a> {
    /// Advances past the next marker. Ignores fill bytes and anything between segments.
    fn next_marker(&mut self) -> Option<u8> {
        loop {
            let code = *self.bytes.get(self.at + 1)?;
            if self.bytes[self.at] == 0xff && code != 0 && code != 0xff {
                self.at += 2;
                return Some(code);
            }
            self.at += 1;
        }
    }

    /// Reads the body of the segment that begins here.
    fn segment(&mut self) -> Option<&'a [u8]> {
        let length =
            usize::from(u16::from_be_bytes([*self.bytes.get(self.at)?, *self.bytes.get(self.at + 1)?]));
        let body = self.bytes.get(self.at + 2..self.at + length.max(2))?;
        self.at += length.max(2);
        Some(body)
    }

    /// Reads the frame header (B.2.2): the components and their numbers of blocks.
    fn frame(&mut self, progressive: bool, body: &[u8], size: (usize, usize)) -> Result<(), String> {
        let bad = || "damaged: bad frame header".to_string();
        let &[_, h1, h0, w1, w0, count, ref rest @ ..] = body else { return Err(bad()) };
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        if !self.components.is_empty() || (width, height) != size || !(1..=4).contains(&count) {
            return Err(bad());
        }
        let factors: Vec<(u8, (usize, usize))> = rest
            .chunks_exact(3)
            .take(usize::from(count))
            .map(|c| (c[0], (usize::from(c[1] >> 4), usize::from(c[1] & 15))))
            .collect();
        let in_range = |f: &usize| (1..=4).contains(f);
        if factors.len() != usize::from(count)
            || !factors.iter().all(|(_, (h, v))| in_range(h) && in_range(v))
        {
            return Err(bad());
        }
        let h_max = factors.iter().map(|f| f.1.0).max().unwrap_or(1);
        let v_max = factors.iter().map(|f| f.1.1).max().unwrap_or(1);
        if factors[0].1 != (h_max, v_max) {
            return Err(unsupported("its brightness has a lower resolution than its colours"));
        }
        self.progressive = progressive;
        self.mcus = (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max));
        for (id, (h, v)) in factors {
            let stride = self.mcus.0 * h;
            self.components.push(Component {
                id,
                sampling: (h, v),
                blocks: ((width * h).div_ceil(h_max).div_ceil(8), (height * v).div_ceil(v_max).div_ceil(8)),
                stride,
                nonzero: vec![0; if progressive { stride * self.mcus.1 * v } else { 0 }],
                missing_bits: [u8::MAX; 64],
            });
        }
        Ok(())
    }

    /// Reads Huffman tables (B.2.4.2).
    fn huffman_tables(&mut self, mut body: &[u8]) -> Result<(), String> {
        while let [class_and_slot, rest @ ..] = body {
            let bad = || "damaged: bad Huffman table".to_string();
            let counts: &[u8; 16] = rest.first_chunk().ok_or_else(bad)?;
            let total: usize = counts.iter().map(|&c| usize::from(c)).sum();
            let values = rest.get(16..16 + total).ok_or_else(bad)?;
            let slot = usize::from(class_and_slot & 15);
            let tables = if class_and_slot >> 4 == 0 { &mut self.dc_tables } else { &mut self.ac_tables };
            *tables.get_mut(slot).ok_or_else(bad)? = Some(Huffman::new(counts, values).ok_or_else(bad)?);
            body = &rest[16 + total..];
        }
        Ok(())
    }

    /// Walks one scan: header (B.2.3), then all its blocks.
    fn scan(&mut self, body: &[u8]) -> Result<(), String> {
        let bad = || "damaged: bad scan header".to_string();
        let (&count, rest) = body.split_first().ok_or_else(bad)?;
        let count = usize::from(count);
        let &[first, last, bits] = rest.get(2 * count..2 * count + 3).ok_or_else(bad)? else {
            return Err(bad());
        };
        let band = match self.progressive {
            true => Band { first: first.into(), last: last.into(), high: bits >> 4, low: bits & 15 },
            false => Band { first: 0, last: 63, high: 0, low: 0 },
        };
        // Progressive (G.1.1.1.1): a scan has coefficient 0 or others, and only coefficient 0 of several components.
        let legal = match self.progressive {
            true => (band.first == 0) == (band.last == 0) && (count == 1 || band.last == 0),
            false => true,
        };
        if !(1..=4).contains(&count) || band.first > band.last || band.last > 63 || !legal {
            return Err(bad());
        }

        let subsampled = self.components.iter().any(|c| c.sampling != (1, 1));
        if !self.progressive && count != self.components.len() && subsampled {
            return Err(unsupported("subsampled colours in separate scans"));
        }

        let Walk { bytes, at, components, progressive, mcus, restart_interval, dc_tables, ac_tables } = self;
        // Index, DC table and AC table of each component of the scan.
        let mut parts = Vec::new();
        for pair in rest.chunks_exact(2).take(count) {
            let index = components.iter().position(|c| c.id == pair[0]).ok_or_else(bad)?;
            components[index].missing_bits[band.first..=band.last].fill(band.low);
            let dc = dc_tables.get(usize::from(pair[1] >> 4)).ok_or_else(bad)?;
            let ac = ac_tables.get(usize::from(pair[1] & 15)).ok_or_else(bad)?;
            let needs = (band.first == 0 && band.high == 0, band.last > 0);
            if (needs.0 && dc.is_none()) || (needs.1 && ac.is_none()) {
                // Motion JPEG omits the tables. Without them this scan can't be walked.
                return Ok(());
            }
            parts.push((index, dc.as_ref(), ac.as_ref()));
        }

        // A scan of one component has its blocks in plain rows, not padded to whole MCUs (A.2.2).
        let (across, down) = match parts[..] {
            [(only, ..)] => components[only].blocks,
            _ => *mcus,
        };
        let mut bits = Bits { bytes, at: *at, word: 0, held: 0 };
        let mut empty_blocks = 0;
        for mcu in 0..across * down {
            if *restart_interval > 0 && mcu > 0 && mcu % *restart_interval == 0 {
                bits.restart((mcu / *restart_interval - 1) % 8)?;
                empty_blocks = 0;
            }
            let (row, column) = (mcu / across, mcu % across);
            for &(index, dc, ac) in &parts {
                let component = &mut components[index];
                let (h, v) = if parts.len() == 1 { (1, 1) } else { component.sampling };
                for inner in 0..h * v {
                    if *progressive {
                        let block = (row * v + inner / h) * component.stride + column * h + inner % h;
                        bits.progressive_block(
                            band,
                            dc,
                            ac,
                            &mut component.nonzero[block],
                            &mut empty_blocks,
                        )?;
                    } else {
                        bits.baseline_block(dc, ac)?;
                    }
                }
            }
        }
        *at = bits.at;
        Ok(())
    }

    /// Checks at the end marker that the scans had all bits of all coefficients.
    ///
    /// Otherwise a progressive file that is cut between two scans would pass as a blurred image.
    fn all_coefficients_seen(&self) -> Result<(), String> {
        match self.components.iter().all(|c| c.missing_bits == [0; 64]) && !self.components.is_empty() {
            true => Ok(()),
            false => Err("truncated: whole scans are missing".to_string()),
        }
    }
}

/// A Huffman table (annex C) for decoding.
struct Huffman {
    /// Value and code length for the next 8 bits; length 0 for longer codes.
    lookup: [(u8, u8); 1 << LOOKUP_BITS],
    /// For each code length: the number after its last code, and the offset from a code to the index of its value.
    ends: [(u32, i32); 17],
    values: Vec<u8>,
}

impl Huffman {
    /// Builds a table of `counts[n]` codes of n+1 bits with their `values` in order; `None` if they don't fit.
    fn new(counts: &[u8; 16], values: &[u8]) -> Option<Huffman> {
        let mut table =
            Huffman { lookup: [(0, 0); 1 << LOOKUP_BITS], ends: [(0, 0); 17], values: values.to_vec() };
        let (mut code, mut used) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            table.ends[length as usize] = (code + count, used as i32 - code as i32);
            if code + count > 1 << length {
                return None;
            }
            for _ in 0..count {
                if length <= LOOKUP_BITS {
                    let free = LOOKUP_BITS - length;
                    let from = (code << free) as usize;
                    table.lookup[from..from + (1 << free)].fill((values[used], length as u8));
                }
                code += 1;
                used += 1;
            }
            code <<= 1;
        }
        Some(table)
    }
}

/// Reader of the bits of entropy-coded data, up to the next marker.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The lowest `held` bits are read but not consumed.
    word: u64,
    held: u32,
}

impl Bits<'_> {
    /// Reads bytes until `word` is full, or up to a marker or the end of the file.
    fn fill(&mut self) {
        while self.held <= 48 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if byte == 0xff {
                // A zero follows a 0xff that is data (B.1.1.5).
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.word = (self.word << 8) | u64::from(byte);
            self.held += 8;
        }
    }

    /// Takes the next `count` ≤ 16 bits.
    fn take(&mut self, count: u32) -> Result<u32, String> {
        if self.held < count {
            self.fill();
            if self.held < count {
                return Err(too_short());
            }
        }
        self.held -= count;
        Ok((self.word >> self.held) as u32 & ((1 << count) - 1))
    }

    /// Takes the next Huffman-coded value.
    fn value(&mut self, table: Option<&Huffman>) -> Result<u8, String> {
        let table = table.ok_or("damaged: a Huffman table is missing")?;
        if self.held < 16 {
            self.fill();
        }
        // Zeros pad the end of the data. A code that reaches into them is missing.
        let next = match self.held {
            16.. => (self.word >> (self.held - 16)) as u32 & 0xffff,
            held => (self.word << (16 - held)) as u32 & 0xffff,
        };
        let (mut value, length) = table.lookup[(next >> (16 - LOOKUP_BITS)) as usize];
        let mut length = u32::from(length);
        if length == 0 {
            length = LOOKUP_BITS + 1;
            while length <= 16 && next >> (16 - length) >= table.ends[length as usize].0 {
                length += 1;
            }
            if length <= 16 {
                let index = (next >> (16 - length)) as i32 + table.ends[length as usize].1;
                value = table.values.get(index as usize).copied().unwrap_or(0);
            }
        }
        if length > self.held {
            return Err(too_short());
        }
        if length > 16 {
            return Err("damaged: a code is in no table".to_string());
        }
        self.held -= length;
        Ok(value)
    }

    /// Passes restart marker number `number` (0 to 7), which must come next (E.2.4).
    fn restart(&mut self, number: usize) -> Result<(), String> {
        // Drops the padding bits, and any bytes between the last block and the marker.
        self.word = 0;
        self.held = 0;
        loop {
            match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (_, None) | (None, _) => return Err(too_short()),
                (Some(0xff), Some(&code)) if code != 0 && code != 0xff => {
                    self.at += 2;
                    return match code {
                        EOI => Err(too_short()),
                        _ if usize::from(code) == 0xd0 + number => Ok(()),
                        _ => Err("damaged: a restart marker is missing".to_string()),
                    };
                }
                _ => self.at += 1,
            }
        }
    }

    /// Passes one block of a sequential scan (F.2.2).
    fn baseline_block(&mut self, dc: Option<&Huffman>, ac: Option<&Huffman>) -> Result<(), String> {
        let size = self.value(dc)?;
        self.take(u32::from(size & 15))?;
        let mut k = 1;
        while k < 64 {
            let run_and_size = self.value(ac)?;
            let (run, size) = (run_and_size >> 4, run_and_size & 15);
            if size == 0 && run != 15 {
                break;
            }
            self.take(u32::from(size))?;
            k += u32::from(run) + 1;
        }
        Ok(())
    }

    /// Passes one block of a progressive scan (G.2).
    ///
    /// `nonzero` is the set of the block's coefficients that are non-zero so far. Each has one more bit in a refining
    /// scan. `empty_blocks` counts the remaining blocks of the current run of blocks without new coefficients.
    fn progressive_block(
        &mut self,
        band: Band,
        dc: Option<&Huffman>,
        ac: Option<&Huffman>,
        nonzero: &mut u64,
        empty_blocks: &mut u32,
    ) -> Result<(), String> {
        let refines = band.high > 0;
        if band.first == 0 {
            let size = if refines { 1 } else { u32::from(self.value(dc)? & 15) };
            return self.take(size).map(|_| ());
        }
        let mut k = band.first;
        while *empty_blocks == 0 && k <= band.last {
            let run_and_size = self.value(ac)?;
            let (run, size) = (u32::from(run_and_size >> 4), u32::from(run_and_size & 15));
            if size == 0 && run != 15 {
                *empty_blocks = (1 << run) + self.take(run)?;
                break;
            }
            self.take(size)?;
            // Passes `run` zeros up to the new coefficient. Non-zero coefficients don't count as zeros; each has one
            // bit.
            let mut zeros = run;
            while k <= band.last {
                if *nonzero >> k & 1 == 1 && refines {
                    self.take(1)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
            if size > 0 && k <= band.last {
                *nonzero |= 1 << k;
            }
            k += 1;
        }
        if *empty_blocks > 0 {
            *empty_blocks -= 1;
            while refines && k <= band.last {
                self.take((*nonzero >> k & 1) as u32)?;
                k += 1;
            }
        }
        Ok(())
    }
}

fn too_short() -> String {
    "truncated: the data ends before its last block".to_string()
}

fn unsupported(what: &str) -> String {
    format!("unsupported kind: {what}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// 17x17 pixels, 4:2:0, progressive: by Pillow with `quality=40, progressive=True`.
    pub(crate) const PROGRESSIVE: &str = "ffd8ffe000104a46494600010100000100010000ffdb004300140e0f120f0d14121012171514181e32211e1c1c1e3d2c\
         2e243249404c4b47404645505a736250556d5645466488656d777b8182814e608d978c7d96737e817cffdb0043011517\
         171e1a1e3b21213b7c5346537c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c\
         7c7c7c7c7c7c7c7c7c7c7c7c7c7cffc20011080011001103012200021101031101ffc400170001010101000000000000\
         00000000000000040305ffc4001801000203000000000000000000000000000304010205ffda000c0301000210031000\
         0001e7d1b54198dd159bc6a0790083ff00ffc4001810010101010100000000000000000000000200011210ffda000801\
         0100010502c360b88988b88c7cffc40017110101010100000000000000000000000003001013ffda0008010301013f01\
         25bb459fffc400191100020301000000000000000000000000000103101112ffda0008010201013f014f4e48ebffc400\
         14100100000000000000000000000000000030ffda0008010100063f021fffc400141001000000000000000000000000\
         00000030ffda0008010100013f211e20ffda000c030100020003000000102820c0ffc400151101010000000000000000\
         0000000000001120ffda0008010301013f10383fffc40014110100000000000000000000000000000020ffda00080102\
         01013f1007ffc4001a100001050100000000000000000000000000213141617110ffda0008010100013f10a4a0c8ca0c\
         21920439ffd9";
    /// 17x17 pixels, 4:2:0, baseline with a restart marker after every MCU: by Pillow with
    /// `quality=40, optimize=True, restart_marker_blocks=1`.
    pub(crate) const RESTARTS: &str = "ffd8ffe000104a46494600010100000100010000ffdb004300140e0f120f0d14121012171514181e32211e1c1c1e3d2c\
         2e243249404c4b47404645505a736250556d5645466488656d777b8182814e608d978c7d96737e817cffdb0043011517\
         171e1a1e3b21213b7c5346537c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c\
         7c7c7c7c7c7c7c7c7c7c7c7c7c7cffc00011080011001103012200021101031101ffc400170001000300000000000000\
         00000000000000040506ffc4001b10010100010500000000000000000000000004610314213141ffc400180100020300\
         0000000000000000000000000405020306ffc4001a110101000203000000000000000000000000040211121314ffdd00\
         040001ffda000c03010002110311003f00cfe8c985868c784d9e4eb859cf1f5c04c72e69495e9fffd08fb2c0d16cb028\
         ea38f63fffd19d3f8b49fc0013154affd2d100c8887fffd9";

    pub(crate) fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    fn check(bytes: &[u8]) -> Result<(), String> {
        check_complete(bytes, (17, 17))
    }

    #[test]
    fn intact_files_pass() {
        for hex in [PROGRESSIVE, RESTARTS] {
            let mut file = bytes(hex);
            assert_eq!(check(&file), Ok(()));
            file.extend([1, 2, 3, 0xff, SOI, 0xff]);
            assert_eq!(check(&file), Ok(()), "what follows the end marker doesn't count");
        }
    }

    #[test]
    fn every_cut_is_found() {
        for hex in [PROGRESSIVE, RESTARTS] {
            let file = bytes(hex);
            for cut in 0..file.len() {
                assert!(check(&file[..cut]).is_err(), "cut at {cut}");
            }
            // With an end marker after the cut. The last two cuts lose only the end marker.
            for cut in 2..file.len() - 2 {
                let ended = [&file[..cut], &[0xff, EOI]].concat();
                assert!(check(&ended).is_err(), "cut at {cut}, end marker");
            }
        }
    }

    #[test]
    fn a_missing_restart_interval_is_found() {
        let file = bytes(RESTARTS);
        let at = |code: u8| file.windows(2).position(|w| w == [0xff, code]).unwrap();
        let without = [&file[..at(0xd0)], &file[at(0xd1)..]].concat();
        assert_eq!(check(&without), Err("damaged: a restart marker is missing".to_string()));
        let short = [&file[..at(0xd2)], &[0xff, EOI]].concat();
        assert_eq!(check(&short), Err(too_short()));
    }

    #[test]
    fn missing_scans_are_found() {
        let file = bytes(PROGRESSIVE);
        let last_scan = file.windows(2).rposition(|w| w == [0xff, SOS]).unwrap();
        let without = [&file[..last_scan], &[0xff, EOI]].concat();
        assert_eq!(check(&without), Err("truncated: whole scans are missing".to_string()));
    }

    #[test]
    fn any_changed_byte_gives_an_answer() {
        for hex in [PROGRESSIVE, RESTARTS] {
            let file = bytes(hex);
            for at in 0..file.len() {
                for value in [0x00, 0x01, 0x0f, 0x11, 0x7f, 0xc4, 0xda, 0xff] {
                    let mut changed = file.clone();
                    changed[at] = value;
                    let _ = check(&changed);
                }
            }
        }
    }
}
