//! Parses compact Thrift, the encoding of Parquet's footers and page headers, and checks the kind of every field. The
//! Parquet library doesn't check.

/// Largest nesting of structs, lists and schema groups. Parquet's structs need eight levels, our schema four.
pub(super) const MAX_DEPTH: usize = 64;

/// Thrift's numbers of kinds. 1 and 2 are true and false.
mod kind {
    pub const FLAG: u8 = 1;
    pub const BYTE: u8 = 3;
    pub const I16: u8 = 4;
    pub const I32: u8 = 5;
    pub const I64: u8 = 6;
    pub const DOUBLE: u8 = 7;
    pub const BYTES: u8 = 8;
    pub const LIST: u8 = 9;
    pub const STRUCT: u8 = 12;
}

/// A value, as far as the checks need it.
pub(super) enum Value {
    /// Neither list nor struct. `number` is the value of an i16, i32 or i64, the length of bytes, or else 0.
    Plain {
        kind: u8,
        number: i64,
    },
    List(Box<[Value]>),
    /// Field numbers, ascending, with their values.
    Struct(Box<[(i16, Value)]>),
}

impl Value {
    /// Parses a struct at the front of `bytes` and advances past it. Returns `None` if the bytes end early, or if it
    /// has anything that Parquet's structs don't have: sets, maps, lists of flags (the library would count to a length
    /// of the file's choice), field numbers that don't ascend, values too large for their kind, too many levels.
    pub(super) fn take_struct(bytes: &mut &[u8]) -> Option<Value> {
        Self::take(bytes, kind::STRUCT, MAX_DEPTH)
    }

    fn take(bytes: &mut &[u8], kind: u8, depth: usize) -> Option<Value> {
        let mut number = 0;
        let passed = match kind {
            kind::FLAG | 2 => return Some(Value::Plain { kind: kind::FLAG, number }),
            kind::BYTE => 1,
            kind::I16..=kind::I64 => {
                number = integer(bytes, [16, 32, 64][usize::from(kind - kind::I16)])?;
                0
            }
            kind::DOUBLE => 8,
            kind::BYTES => {
                let length = usize::try_from(varint(bytes)?).ok()?;
                number = length as i64;
                length
            }
            kind::LIST => return Self::take_list(bytes, depth.checked_sub(1)?),
            kind::STRUCT => return Self::take_fields(bytes, depth.checked_sub(1)?),
            _ => return None,
        };
        *bytes = bytes.get(passed..)?;
        Some(Value::Plain { kind, number })
    }

    fn take_list(bytes: &mut &[u8], depth: usize) -> Option<Value> {
        let head = *bytes.split_off_first()?;
        let (count, kind) = (head >> 4, head & 15);
        let count = if count == 15 { varint(bytes)? } else { count.into() };
        if count > 0 && matches!(kind, kind::FLAG | 2) {
            return None;
        }
        (0..count).map(|_| Self::take(bytes, kind, depth)).collect::<Option<_>>().map(Value::List)
    }

    fn take_fields(bytes: &mut &[u8], depth: usize) -> Option<Value> {
        let (mut fields, mut last, mut highest) = (Vec::new(), 0i16, 0);
        loop {
            let head = *bytes.split_off_first()?;
            let (step, kind) = (head >> 4, head & 15);
            if kind == 0 {
                return Some(Value::Struct(fields.into()));
            }
            // A step that doesn't fit beside the kind is 0, and the whole number follows.
            last = if step == 0 { integer(bytes, 16)? as i16 } else { last.checked_add(step.into())? };
            let value = Self::take(bytes, kind, depth)?;
            // The format has no numbers below 1, but its example of an extension does.
            if last > 0 {
                if last <= highest {
                    return None;
                }
                highest = last;
                fields.push((last, value));
            }
        }
    }

    /// Returns whether every known field has its form. Unknown fields may have any.
    pub(super) fn fits(&self, form: &Form) -> bool {
        match (self, form) {
            (Value::Plain { kind, .. }, Form::Plain(right)) => kind == right,
            (Value::List(elements), Form::List(form)) => elements.iter().all(|element| element.fits(form)),
            (Value::Struct(fields), Form::Struct(forms)) => {
                let form = |number: i16| forms.get(number as usize - 1);
                fields.iter().all(|(number, value)| form(*number).is_none_or(|form| value.fits(form)))
            }
            _ => false,
        }
    }

    /// A field of a struct.
    pub(super) fn field(&self, number: i16) -> Option<&Value> {
        let Value::Struct(fields) = self else { return None };
        fields.iter().find(|(other, _)| *other == number).map(|(_, value)| value)
    }

    /// An integer field of a struct.
    pub(super) fn number(&self, field: i16) -> Option<i64> {
        let Value::Plain { number, .. } = self.field(field)? else { return None };
        Some(*number)
    }
}

/// Reads a zigzag integer (0, −1, 1, −2 …) of at most `bits` bits; `None` if it is longer, as the library would
/// truncate it.
fn integer(bytes: &mut &[u8], bits: u32) -> Option<i64> {
    let zigzag = varint(bytes)?;
    let number = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    (number >> (bits - 1) == number >> 63).then_some(number)
}

/// Reads an unsigned integer: seven bits per byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
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

/// The form that the format requires of a value.
pub(super) enum Form {
    /// A plain value of this kind.
    Plain(u8),
    /// A list of elements of this form.
    List(&'static Form),
    /// A struct. Its fields, from number 1, have these forms.
    Struct(&'static [Form]),
}

use Form::{List, Plain, Struct};

const FLAG: Form = Plain(kind::FLAG);
const BYTE: Form = Plain(kind::BYTE);
const I16: Form = Plain(kind::I16);
const I32: Form = Plain(kind::I32);
const I64: Form = Plain(kind::I64);
const DOUBLE: Form = Plain(kind::DOUBLE);
const BYTES: Form = Plain(kind::BYTES);

const EMPTY: Form = Struct(&[]);
const KEY_VALUE: Form = Struct(&[BYTES, BYTES]);
const STATISTICS: Form = Struct(&[BYTES, BYTES, I64, I64, BYTES, BYTES, FLAG, FLAG, I64]);
const ENCODING_STATS: Form = Struct(&[I32, I32, I32]);
const SIZE_STATISTICS: Form = Struct(&[I64, List(&I64), List(&I64)]);
const BOUNDING_BOX: Form = Struct(&[DOUBLE; 8]);
const GEOSPATIAL_STATISTICS: Form = Struct(&[BOUNDING_BOX, List(&I32)]);
const COLUMN_METADATA: Form = Struct(&[
    I32,
    List(&I32),
    List(&BYTES),
    I32,
    I64,
    I64,
    I64,
    List(&KEY_VALUE),
    I64,
    I64,
    I64,
    STATISTICS,
    List(&ENCODING_STATS),
    I64,
    I32,
    SIZE_STATISTICS,
    GEOSPATIAL_STATISTICS,
]);
const COLUMN_CHUNK: Form = Struct(&[BYTES, I64, COLUMN_METADATA, I64, I32, I64, I32]);
const SORTING_COLUMN: Form = Struct(&[I32, FLAG, FLAG]);
const ROW_GROUP: Form = Struct(&[List(&COLUMN_CHUNK), I64, I64, List(&SORTING_COLUMN), I64, I64, I16]);
const TIME: Form = Struct(&[FLAG, Struct(&[EMPTY, EMPTY, EMPTY])]);
const LOGICAL_TYPE: Form = Struct(&[
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    // Decimals: scale, precision.
    Struct(&[I32, I32]),
    EMPTY,
    TIME,
    TIME,
    // Reserved.
    EMPTY,
    // Integers: bits, sign.
    Struct(&[BYTE, FLAG]),
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    // Variants: version.
    Struct(&[BYTE]),
    // Geometry; geography: coordinates, algorithm.
    Struct(&[BYTES]),
    Struct(&[BYTES, I32]),
    EMPTY,
]);
const SCHEMA_ELEMENT: Form = Struct(&[I32, I32, I32, BYTES, I32, I32, I32, I32, I32, LOGICAL_TYPE]);
const COLUMN_ORDER: Form = Struct(&[EMPTY, EMPTY, EMPTY]);

/// The footer of a file (`FileMetaData` in the format's `parquet.thrift`).
pub(super) const FOOTER: Form = Struct(&[
    I32,
    List(&SCHEMA_ELEMENT),
    I64,
    List(&ROW_GROUP),
    List(&KEY_VALUE),
    BYTES,
    List(&COLUMN_ORDER),
]);

/// The header of a page (`PageHeader`): type, sizes, checksum, and a struct for each type.
pub(super) const PAGE_HEADER: Form = Struct(&[
    I32,
    I32,
    I32,
    I32,
    Struct(&[I32, I32, I32, I32, STATISTICS]),
    EMPTY,
    Struct(&[I32, I32, FLAG]),
    Struct(&[I32, I32, I32, I32, I32, I32, FLAG, STATISTICS]),
]);

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as fields of a struct.
    fn parsed(fields: &[u8]) -> Option<Value> {
        let bytes = [fields, &[0]].concat();
        let mut rest = &bytes[..];
        let value = Value::take_struct(&mut rest)?;
        assert!(rest.is_empty(), "{} of {} bytes are left", rest.len(), bytes.len());
        for end in 0..bytes.len() {
            assert!(Value::take_struct(&mut &bytes[..end]).is_none(), "cut off after {end} bytes");
        }
        Some(value)
    }

    #[test]
    fn integers_end_at_a_byte_without_the_highest_bit() {
        let largest = [&[0xff; 9][..], &[1]].concat();
        for (bytes, number) in [(&[0][..], 0), (&[127], 127), (&[0xac, 0x02], 300), (&largest, u64::MAX)] {
            let longer = [bytes, &[7]].concat();
            let mut rest = &longer[..];
            assert_eq!((varint(&mut rest), rest), (Some(number), &[7][..]));
            assert_eq!(varint(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(varint(&mut &[0xff; 12][..]), None);
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for (bytes, number) in [
            (&[0x15, 0][..], 0),
            (&[0x15, 1], -1),
            (&[0x15, 0xac, 2], 150),
            (&[0x15, 0xff, 0xff, 0xff, 0xff, 0xf], i32::MIN.into()),
            (&[0x16, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], i64::MAX),
            (&[0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], i64::MIN),
        ] {
            assert_eq!(parsed(bytes).unwrap().number(1), Some(number), "{bytes:x?}");
        }
        // One more than the largest i32, i16 and varint.
        assert!(parsed(&[0x15, 0x80, 0x80, 0x80, 0x80, 0x10]).is_none());
        assert!(parsed(&[0x14, 0x80, 0x80, 4]).is_none());
        assert!(parsed(&[0x16, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0]).is_none());
    }

    #[test]
    fn lists_are_as_long_as_their_elements() {
        // Two strings; an empty list without a kind, as some libraries write it; 16 numbers.
        assert!(parsed(&[0x19, 0x28, 1, b'a', 0]).unwrap().fits(&Struct(&[List(&BYTES)])));
        assert!(parsed(&[0x19, 0]).is_some());
        assert!(parsed(&[&[0x19, 0xf5, 16][..], &[2; 16]].concat()).is_some());
        for flags in [1, 2] {
            assert!(parsed(&[0x19, 0x20 | flags, 1, 1]).is_none());
            // Two billion, without any further bytes.
            assert!(parsed(&[0x19, 0xf0 | flags, 0xff, 0xff, 0xff, 0xff, 7]).is_none());
        }
    }

    #[test]
    fn depth_has_a_bound() {
        // Nested structs, and nested lists of one element each.
        for (head, ends) in [(0x1c, true), (0x19, false)] {
            let nested = |levels: usize| {
                let bytes = [vec![head; levels], vec![0; if ends { levels } else { 1 }], vec![0]].concat();
                Value::take_struct(&mut &bytes[..])
            };
            assert!(nested(MAX_DEPTH - 1).is_some(), "{head:x}");
            assert!(nested(MAX_DEPTH).is_none(), "{head:x}");
            assert!(nested(1_000_000).is_none(), "{head:x}");
        }
    }

    #[test]
    fn known_fields_have_their_kind_and_others_any() {
        let form = Struct(&[I32, FLAG]);
        for (fields, right) in [
            (&[0x15, 2, 0x11][..], true),
            (&[0x15, 2, 0x12], true),
            (&[0x22], true),
            (&[0x16, 2], false),
            (&[0x11], false),
            (&[0x25, 2], false),
            // Field 3 is unknown.
            (&[0x35, 2], true),
            (&[0x3c, 0x11, 0], true),
        ] {
            assert_eq!(parsed(fields).unwrap().fits(&form), right, "{fields:x?}");
        }
        // Field numbers written in full: 1; 16 of a LogicalType; 32767, which Parquet keeps for extensions; 0, -1,
        // 65537.
        assert!(parsed(&[0x05, 2, 2]).unwrap().fits(&form));
        assert!(!parsed(&[0x06, 2, 2]).unwrap().fits(&form));
        assert!(parsed(&[0x0c, 32, 0]).unwrap().fits(&LOGICAL_TYPE));
        assert!(!parsed(&[0x05, 32, 0]).unwrap().fits(&LOGICAL_TYPE));
        assert!(parsed(&[0x15, 2, 0x08, 0xfe, 0xff, 3, 1, 7]).unwrap().fits(&form));
        assert!(parsed(&[0x15, 2, 0x08, 0xff, 0xff, 1, 1, 7]).unwrap().fits(&form));
        for number in [&[0x82, 0x80, 8][..], &[0x81, 0x80, 4]] {
            assert!(parsed(&[&[0x05], number, &[2]].concat()).is_none(), "{number:x?}");
        }
        // The same field twice.
        assert!(parsed(&[0x15, 2, 0x05, 2, 2]).is_none());
    }
}
