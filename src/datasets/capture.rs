//! The tracklet and the frame of an image: what names and tables say beyond person and camera.

use super::labels::{base, is_number};

/// Lengths in frames of Market-1501's recordings, by camera, then by sequence. Each sequence counts its frames from
/// the start of a recording, so a frame's place in a camera's whole footage is the sum of the lengths before it, plus
/// its own number. From the program of st-ReID (Wang et al., AAAI 2019).
const SEQUENCES: [&[u64]; 6] = [
    &[72681, 74546, 74881, 74661, 74891, 54346],
    &[163_691, 164_677, 98102],
    &[161_708, 161_769, 104_469],
    &[72107, 72373, 74810, 74541, 74910, 50616],
    &[161_095, 161_724, 103_487],
    &[87551, 131_268, 95817, 30952],
];

/// The tracklet and the frame of an image, as far as its name or its table gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// Name of the tracklet: images of one person that one camera took in a row.
    pub tracklet: Option<String>,
    /// Number of the frame in its camera's recording. Cameras may begin at different times.
    pub frame: Option<u64>,
}

impl Capture {
    /// Parses a file name. A name of MARS such as `0002C1T0001F001.jpg` has a tracklet; names of Market-1501
    /// (`0002_c1s1_000451_03.jpg`), DukeMTMC-reID (`0001_c2_f0046182.jpg`) and VeRi-776 (`0001_c001_00016450_0.jpg`)
    /// have a frame. Frames of Market-1501's later sequences follow those of the earlier ones.
    pub fn from_name(name: &str) -> Capture {
        let file = base(name);
        Capture { tracklet: tracklet(file).map(str::to_string), frame: frame(file) }
    }
}

/// The first part of a name of MARS: person, camera and tracklet.
fn tracklet(file: &str) -> Option<&str> {
    let (before, frame) = file.rsplit_once('F')?;
    let (_, numbers) = before.split_at_checked(4)?;
    let (camera, tracklet) = numbers.strip_prefix('C')?.split_once('T')?;
    [camera, tracklet, frame.split_once('.')?.0].into_iter().all(is_number).then_some(before)
}

/// The frame in a name of Market-1501, DukeMTMC-reID or VeRi-776.
fn frame(file: &str) -> Option<u64> {
    let fields: Vec<&str> = file.split_once('.')?.0.split('_').collect();
    let (_, rest) = fields.split_first()?;
    let (by, rest) = rest.split_first()?;
    let by = by.strip_prefix('c')?;
    match rest {
        [frame] if is_number(by) => Some(frame.strip_prefix('f')?).filter(|f| is_number(f))?.parse().ok(),
        [frame, number] if is_number(frame) && is_number(number) => {
            let (camera, sequence) = by.split_once('s').unwrap_or((by, "1"));
            Some(before(camera.parse().ok()?, sequence.parse().ok()?)? + frame.parse::<u64>().ok()?)
        }
        _ => None,
    }
}

/// The number of frames before a sequence of Market-1501.
fn before(camera: usize, sequence: usize) -> Option<u64> {
    match sequence {
        1 => Some(0),
        _ => Some(SEQUENCES.get(camera.checked_sub(1)?)?.get(..sequence.checked_sub(1)?)?.iter().sum()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_tracklets_and_frames() {
        for (name, tracklet, frame) in [
            ("bbox_test/0002/0002C1T0001F001.jpg", Some("0002C1T0001"), None),
            ("00-1C6T0012F100.jpg", Some("00-1C6T0012"), None),
            ("0002C1T0001.jpg", None, None),
            ("query/0002_c1s1_000451_03.jpg", None, Some(451)),
            ("0002_c1s3_000001_03.jpg", None, Some(72681 + 74546 + 1)),
            ("-1_c6s4_000002_00.jpg", None, Some(87551 + 131_268 + 95817 + 2)),
            ("0002_c2s5_000001_03.jpg", None, None),
            ("0002_c9s2_000001_03.jpg", None, None),
            ("0002_c0s2_000001_03.jpg", None, None),
            ("0001_c2_f0046182.jpg", None, Some(46182)),
            ("0001_c001_00016450_0.jpg", None, Some(16450)),
            ("0001_c1_12.png", None, None),
            ("0000_000_01_0303morning_0015_0.jpg", None, None),
            ("anna/hall_1.jpg", None, None),
            ("F", None, None),
            ("äöüF1.jpg", None, None),
        ] {
            let wanted = Capture { tracklet: tracklet.map(str::to_string), frame };
            assert_eq!(Capture::from_name(name), wanted, "{name}");
        }
    }
}
