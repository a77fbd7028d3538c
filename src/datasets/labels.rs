//! Whom a picture shows, and by which camera: what retrieval scores are counted by.

/// Whom a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Person {
    /// A person with a number of their own.
    Known(u32),
    /// Somebody who is in no query: stays in the gallery and matches nobody (0000 in Market-1501).
    Distractor,
    /// A bad detection, neither right nor wrong (-1 in Market-1501).
    Junk,
}

/// Person and camera of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Whom it shows.
    pub person: Person,
    /// Which camera took it.
    pub camera: u32,
}

impl Label {
    /// Reads a file name of Market-1501: `0002_c1s1_000451_03.jpg` is person 2 by camera 1; cameras may have two
    /// digits, and what follows the camera is free. `None` for any other name.
    pub fn from_market_name(name: &str) -> Option<Label> {
        let file = name.rsplit('/').next().unwrap_or(name);
        let (person, rest) = file.split_once("_c")?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let camera = rest[..digits].parse().ok()?;
        let person = match person.strip_prefix('-') {
            Some(number) => number.parse::<u32>().ok().map(|_| Person::Junk)?,
            None => match person.parse().ok().filter(|_| person.bytes().all(|b| b.is_ascii_digit()))? {
                0 => Person::Distractor,
                number => Person::Known(number),
            },
        };
        Some(Label { person, camera })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn market_names() {
        let read = |name| Label::from_market_name(name).map(|label| (label.person, label.camera));
        assert_eq!(read("0002_c1s1_000451_03.jpg"), Some((Person::Known(2), 1)));
        assert_eq!(read("query/1501_c15_f0001.png"), Some((Person::Known(1501), 15)));
        assert_eq!(read("0000_c6s2_1_1.jpg"), Some((Person::Distractor, 6)));
        assert_eq!(read("-1_c3s1_000401_03.jpg"), Some((Person::Junk, 3)));
        for name in ["a_c1s1.jpg", "0002.jpg", "0002_cs1.jpg", "+2_c1.jpg", "--1_c1.jpg", "_c1.jpg", ""] {
            assert_eq!(read(name), None, "{name}");
        }
    }
}
