//! What bitsandbytes writes beside a 4-bit weight: sizes, as JSON.

use vram_types::{Shape, SourceErrorKind};

use crate::fault::Fault;
use crate::format::json::Cursor;

/// What is needed of it.
#[derive(Debug, PartialEq)]
pub(super) struct QuantState {
    /// The weight's, before it was quantised.
    pub(super) shape: Shape,
    /// Elements that share an absmax.
    pub(super) run: u64,
    /// Absmax that share a nested absmax, and what is added to all.
    pub(super) nested: Option<(u64, f32)>,
}

impl QuantState {
    pub(super) fn parse(json: &[u8]) -> Result<QuantState, Fault> {
        let text = std::str::from_utf8(json).map_err(|e| Fault::invalid(e.valid_up_to(), "not UTF-8"))?;
        let (mut shape, mut run, mut nested_run, mut offset) = (None, None, None, None);
        let mut cursor = Cursor::new(text, 0);
        cursor.blanks();
        cursor.object(|c, key, at| {
            match &*key {
                "shape" => {
                    let mut dims = Vec::new();
                    c.array(|c| {
                        let extent = usize::try_from(c.unsigned()?);
                        dims.push(extent.map_err(|_| Fault::invalid(at, "an extent that does not fit"))?);
                        Ok(())
                    })?;
                    shape = Some(Shape::from(dims));
                }
                "blocksize" => run = Some(c.unsigned()?),
                "nested_blocksize" => nested_run = Some(c.unsigned()?),
                "nested_offset" => {
                    let text = c.rest_text();
                    c.skip()?;
                    let number = text[..text.len() - c.rest_text().len()].trim();
                    offset =
                        Some(number.parse().map_err(|_| Fault::invalid(at, "nested_offset is no number"))?);
                }
                _ => c.skip()?,
            }
            Ok::<(), Fault>(())
        })?;
        let missing =
            |what: &str| Fault::new(SourceErrorKind::Invalid, format!("a description without its {what}"));
        let positive = |n: u64| (n > 0).then_some(n);
        let nested = match (nested_run, offset) {
            (None, None) => None,
            (run, offset) => Some((
                run.and_then(positive).ok_or_else(|| missing("nested_blocksize"))?,
                offset.ok_or_else(|| missing("nested_offset"))?,
            )),
        };
        Ok(QuantState {
            shape: shape.ok_or_else(|| missing("shape"))?,
            run: run.and_then(positive).ok_or_else(|| missing("blocksize"))?,
            nested,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_bitsandbytes_writes() {
        let plain = br#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16]}"#;
        let state = QuantState::parse(plain).unwrap();
        assert_eq!(state, QuantState { shape: [8, 16].into(), run: 64, nested: None });
        let nested = br#"{"shape": [4], "blocksize": 64, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": -1.5e-2}"#;
        assert_eq!(QuantState::parse(nested).unwrap().nested, Some((256, -0.015)));
        for wrong in [
            &b"{}"[..],
            b"\xff",
            b"[]",
            br#"{"blocksize": 64}"#,
            br#"{"blocksize": 0, "shape": [2]}"#,
            br#"{"blocksize": 64, "shape": 2}"#,
            br#"{"blocksize": 64, "shape": [2], "nested_offset": 1}"#,
            br#"{"blocksize": 64, "shape": [2], "nested_blocksize": 2, "nested_offset": "x"}"#,
            br#"{"blocksize": 64, "shape": [2]"#,
        ] {
            assert!(QuantState::parse(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
