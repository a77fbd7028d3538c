//! Person and camera of an image: the labels that retrieval scores are based on.

/// The person in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Person {
    /// A person, by number.
    Known(u32),
    /// A person in no query: stays in the gallery and matches nobody (0000 in Market-1501).
    Distractor,
    /// A bad detection, neither correct nor wrong (-1 in Market-1501).
    Junk,
}

/// Person and camera of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// The person.
    pub person: Person,
    /// The camera.
    pub camera: u32,
}

impl Label {
    /// Parses a file name in Market-1501's form: `0002_c1s1_000451_03.jpg` is person 2 by camera 1. Cameras may have
    /// several digits, and anything may follow the camera. Also parses MARS's names, such as `0002C1T0001F001.jpg`.
    /// `None` for any other name.
    pub fn from_market_name(name: &str) -> Option<Label> {
        let (person, camera) = spelled(base(name))?;
        let person = match person.bytes().all(|b| b.is_ascii_digit()) {
            false => Person::Junk,
            true => match person.parse().ok()? {
                0 => Person::Distractor,
                number => Person::Known(number),
            },
        };
        Some(Label { person, camera })
    }
}

/// The last component of a name.
pub(super) fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Returns whether `text` is one or more digits.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Returns whether a person's name means junk: -1, or 00-1 as in MARS.
pub(super) fn is_junk(person: &str) -> bool {
    person.trim_start_matches('0').strip_prefix('-').is_some_and(is_number)
}

/// Returns whether two spellings are the same person.
pub(super) fn is_same_person(a: &str, b: &str) -> bool {
    a.trim_start_matches('0') == b.trim_start_matches('0') || is_junk(a) && is_junk(b)
}

/// The person, as a file name of Market-1501 or MARS spells it, and the camera.
pub(super) fn spelled(file: &str) -> Option<(&str, u32)> {
    mars(file).or_else(|| {
        let (person, rest) = file.split_once("_c")?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let camera = rest[..digits].parse().ok()?;
        let known = is_number(person) || person.starts_with('-') && is_junk(person);
        known.then_some((person, camera))
    })
}

/// The same for MARS's `0002C1T0001F001.jpg`: the person is four characters.
fn mars(file: &str) -> Option<(&str, u32)> {
    let (person, rest) = file.split_at_checked(4)?;
    let (camera, rest) = rest.strip_prefix('C')?.split_once('T')?;
    let (tracklet, rest) = rest.split_once('F')?;
    let (frame, _) = rest.split_once('.')?;
    let numbers = [camera, tracklet, frame].into_iter().all(is_number);
    (numbers && (is_number(person) || is_junk(person))).then_some((person, camera.parse().ok()?))
}

/// The person, as spelled, and the camera in a file name that matches the pattern of a published data set completely:
///
/// | names | data set |
/// |---|---|
/// | `0002_c1s1_000451_03.jpg` | Market-1501 |
/// | `0001_c2_f0046182.jpg` | DukeMTMC-reID, Occluded-Duke |
/// | `0001_c001_00016450_0.jpg` | VeRi-776 |
/// | `0001_c1_12.png` | CUHK03 as others convert it |
/// | `0001C1T0001F001.jpg` | MARS |
/// | `0000_000_01_0303morning_0015_0.jpg` | MSMT17 |
pub(super) fn published(file: &str) -> Option<(&str, u32)> {
    let (stem, extension) = file.split_once('.')?;
    // Market-1501 has names that end in .jpg.jpg.
    if extension.is_empty() || stem.is_empty() {
        return None;
    }
    if let Some(found) = mars(file) {
        return Some(found);
    }
    let fields: Vec<&str> = stem.split('_').collect();
    let camera = |field: &str| field.strip_prefix('c').filter(|c| is_number(c))?.parse().ok();
    let found = match fields[..] {
        [person, by, third] => {
            let frame = third.strip_prefix('f').is_some_and(is_number);
            let index = is_number(third) && person.len() == 4;
            (person, camera(by).filter(|_| frame || index)?)
        }
        [person, by, frame, box_or_index] if is_number(frame) && is_number(box_or_index) => {
            let (by, sequence) = by.split_once('s').unwrap_or((by, "1"));
            (person, camera(by).filter(|_| is_number(sequence))?)
        }
        [person, index, by, time, frame, last] => {
            let numbers = [index, by, frame, last].into_iter().all(is_number);
            let lengths = (person.len(), index.len(), by.len()) == (4, 3, 2);
            let day =
                time.len() > 4 && is_number(&time[..time.bytes().take_while(u8::is_ascii_digit).count()]);
            (person, by.parse().ok().filter(|_| numbers && lengths && day)?)
        }
        _ => return None,
    };
    (is_number(found.0) || is_junk(found.0)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_market_names() {
        let read = |name| Label::from_market_name(name).map(|label| (label.person, label.camera));
        assert_eq!(read("0002_c1s1_000451_03.jpg"), Some((Person::Known(2), 1)));
        assert_eq!(read("query/1501_c15_f0001.png"), Some((Person::Known(1501), 15)));
        assert_eq!(read("0000_c6s2_1_1.jpg"), Some((Person::Distractor, 6)));
        assert_eq!(read("-1_c3s1_000401_03.jpg"), Some((Person::Junk, 3)));
        for name in ["a_c1s1.jpg", "0002.jpg", "0002_cs1.jpg", "+2_c1.jpg", "--1_c1.jpg", "_c1.jpg", ""] {
            assert_eq!(read(name), None, "{name}");
        }
        assert_eq!(read("0001_c001_00016450_0.jpg"), Some((Person::Known(1), 1)));
        assert_eq!(read("bbox_test/0003/0003C6T0012F101.jpg"), Some((Person::Known(3), 6)));
        assert_eq!(read("0000C1T0001F001.jpg"), Some((Person::Distractor, 1)));
        assert_eq!(read("00-1C1T0001F001.jpg"), Some((Person::Junk, 1)));
        for name in [
            "001C1T0001F001.jpg",
            "0001C1T0001.jpg",
            "0001C1T0001Fx.jpg",
            "ab01C1T0001F001.jpg",
            "äöC1T1F1.jpg",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
    }

    #[test]
    fn published_matches_complete_names() {
        for (name, person, camera) in [
            ("0002_c1s1_000451_03.jpg", "0002", 1),
            ("0002_c1s1_000451_03.jpg.jpg", "0002", 1),
            ("-1_c3s1_000401_03.jpg", "-1", 3),
            ("0001_c2_f0046182.jpg", "0001", 2),
            ("0001_c013_00016450_0.jpg", "0001", 13),
            ("0001_c1_12.png", "0001", 1),
            ("00-1C2T0001F001.jpg", "00-1", 2),
            ("0000_000_15_0303morning_0015_0.jpg", "0000", 15),
        ] {
            assert_eq!(published(name), Some((person, camera)), "{name}");
        }
        for name in [
            "0001.jpg",
            "0001_c1.jpg",
            "1_c1_12.png",
            "0002_c1s1_x_03.jpg",
            "0002_c1s_000451_03.jpg",
            "2_3_4_5.jpg",
            "anna_c1s1_000451_03.jpg",
            "0000_000_15_morning_0015_0.jpg",
            "0001_c1s1_000451_03",
            "0002_c1_hat.jpg",
            ".jpg",
        ] {
            assert_eq!(published(name), None, "{name}");
        }
    }
}
