//! The spellings of a tensor that known writers use, read quickly.
//!
//! `{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}` with the three in any order, without
//! escapes, and without blanks but for one behind a comma or a colon, as Python's `json` writes
//! them. Anything else, wrong or merely spelt otherwise, is left to the general reader, which also
//! finds the words for what is wrong.

use smallvec::SmallVec;
use vram_types::{DType, Shape};

/// What a tensor's object says, and where in it the two checked fields stand.
pub(crate) struct Fields {
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    pub(crate) shape_at: usize,
    pub(crate) offsets: (u64, u64),
    pub(crate) offsets_at: usize,
}

/// Numbers of so many digits always fit 64 bits.
const MOST_DIGITS: usize = 19;

/// Reads the object at the beginning of `json`; also gives its length. `None` if it is spelt
/// otherwise.
pub(crate) fn read(json: &[u8]) -> Option<(Fields, usize)> {
    let (mut dtype_is, mut shape_is, mut offsets_are) = (None, None, None);
    let mut rest = json.strip_prefix(b"{")?;
    for last in [false, false, true] {
        let at = json.len() - rest.len();
        let twice = if let Some(value) = rest.strip_prefix(b"\"dtype\":") {
            rest = blank(value);
            dtype_is.replace(quoted_dtype(&mut rest)?).is_some()
        } else if let Some(value) = rest.strip_prefix(b"\"shape\":") {
            rest = blank(value);
            shape_is.replace((shape(&mut rest)?, at)).is_some()
        } else {
            rest = blank(rest.strip_prefix(b"\"data_offsets\":")?);
            offsets_are.replace((pair(&mut rest)?, at)).is_some()
        };
        if twice {
            return None;
        }
        rest = if last { rest.strip_prefix(b"}")? } else { blank(rest.strip_prefix(b",")?) };
    }
    let ((shape, shape_at), (offsets, offsets_at)) = (shape_is?, offsets_are?);
    let fields = Fields { dtype: dtype_is?, shape, shape_at, offsets, offsets_at };
    Some((fields, json.len() - rest.len()))
}

/// What is left after the blank that some writers put behind commas and colons.
#[inline]
fn blank(rest: &[u8]) -> &[u8] {
    rest.strip_prefix(b" ").unwrap_or(rest)
}

#[inline]
fn quoted_dtype(rest: &mut &[u8]) -> Option<DType> {
    let name = rest.strip_prefix(b"\"")?;
    let end = name.iter().take(MOST_DIGITS).position(|&b| b == b'"')?;
    *rest = &name[end + 1..];
    dtype(&name[..end])
}

#[inline]
fn shape(rest: &mut &[u8]) -> Option<Shape> {
    let mut dims = SmallVec::<[usize; 4]>::new();
    *rest = rest.strip_prefix(b"[")?;
    while rest.first() != Some(&b']') {
        if !dims.is_empty() {
            *rest = blank(rest.strip_prefix(b",")?);
        }
        // A long shape is left to the reader that has its memory in hand.
        if dims.len() == dims.inline_size() {
            return None;
        }
        dims.push(usize::try_from(number(rest)?).ok()?);
    }
    *rest = &rest[1..];
    Some(Shape::new(&dims))
}

#[inline]
fn pair(rest: &mut &[u8]) -> Option<(u64, u64)> {
    *rest = rest.strip_prefix(b"[")?;
    let first = number(rest)?;
    *rest = blank(rest.strip_prefix(b",")?);
    let second = number(rest)?;
    *rest = rest.strip_prefix(b"]")?;
    Some((first, second))
}

/// The dtype of that name; the usual ones first, since the list of all is long to compare with.
pub(crate) fn dtype(name: &[u8]) -> Option<DType> {
    match name {
        b"BF16" => Some(DType::BF16),
        b"F32" => Some(DType::F32),
        b"F16" => Some(DType::F16),
        b"F8_E4M3" => Some(DType::F8_E4M3),
        other => DType::from_name(other),
    }
}

#[inline]
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    let mut digits = 0;
    while let Some(d @ b'0'..=b'9') = rest.get(digits) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(d - b'0'));
        digits += 1;
    }
    let leading_zero = digits > 1 && rest.first() == Some(&b'0');
    if digits == 0 || digits > MOST_DIGITS || leading_zero {
        return None;
    }
    *rest = &rest[digits..];
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_spelling_and_leaves_the_rest() {
        let text = br#"{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#;
        let (fields, len) = read(text).unwrap();
        assert_eq!((fields.dtype, fields.shape.dims(), fields.offsets), (DType::F32, &[2, 3][..], (0, 24)));
        assert!(
            text[fields.shape_at..].starts_with(b"\"shape\"")
                && text[fields.offsets_at..].starts_with(b"\"data_offsets\"")
        );
        assert_eq!(text[len..], *b",");
        assert!(read(br#"{"dtype":"U8","shape":[],"data_offsets":[0,1]}"#).is_some());
        for text in [
            r#"{"shape":[2,3],"dtype":"F32","data_offsets":[0,24]}"#,
            r#"{"data_offsets":[0,24],"dtype":"F32","shape":[2,3]}"#,
            r#"{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}"#,
        ] {
            let (fields, len) = read(text.as_bytes()).unwrap();
            assert_eq!((fields.dtype, fields.shape.dims()), (DType::F32, &[2, 3][..]), "{text}");
            assert_eq!((fields.offsets, len), ((0, 24), text.len()), "{text}");
            assert!(text[fields.shape_at..].starts_with("\"shape\""), "{text}");
            assert!(text[fields.offsets_at..].starts_with("\"data_offsets\""), "{text}");
        }
        for other in [
            r#"{ "dtype":"F32","shape":[2,3],"data_offsets":[0,24]}"#,
            r#"{"dtype":"F33","shape":[2,3],"data_offsets":[0,24]}"#,
            r#"{"dtype":"F32","shape":[2,],"data_offsets":[0,24]}"#,
            r#"{"dtype":"F32","shape":[,2],"data_offsets":[0,24]}"#,
            r#"{"dtype":"F32","shape":[02],"data_offsets":[0,24]}"#,
            r#"{"dtype":"F32","shape":[2.0],"data_offsets":[0,24]}"#,
            r#"{"dtype":"F32","shape":[2],"data_offsets":[0,24,3]}"#,
            r#"{"dtype":"F32","shape":[2],"data_offsets":[0,24],"x":1}"#,
            r#"{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,24]}"#,
            r#"{"dtype":"F32","dtype":"F32","data_offsets":[0,8]}"#,
            r#"{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}"#,
            r#"{"dtype":"F32","shape":[2]}"#,
            r#"{"dtype" :"F32","shape":[2],"data_offsets":[0,8]}"#,
            r#"{"dtype":"F32","shape":[2 ],"data_offsets":[0,8]}"#,
            r#"{"dtype":"F32","shape":[2],  "data_offsets":[0,8]}"#,
            r#"{"dtype":"F32","shape":[2"#,
        ] {
            assert!(read(other.as_bytes()).is_none(), "{other}");
        }
    }
}
