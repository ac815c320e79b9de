//! Files that are no checkpoint of a format that is read: what each is, and what to do with it.

use vram_types::SourceErrorKind;

use crate::fault::{Fault, quoted};

/// Bytes of a file's beginning that tell what it is.
pub(crate) const TELLING_BYTES: usize = 512;
/// Longest part of a text that a message quotes.
const MOST_QUOTED: usize = 80;

/// How a file begins, and what it is.
const BEGINNINGS: [(&[u8], &str); 15] = [
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, as Keras and TensorFlow write: load it there and save its weights as safetensors",
    ),
    (b"\x93NUMPY", "a NumPy array: save it with safetensors.numpy.save_file"),
    (b"lmgg", GGML),
    (b"fmgg", GGML),
    (b"tjgg", GGML),
    (b"algg", "a GGML adapter from before GGUF: convert it with llama.cpp's scripts"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\xfd7zXZ\0", "compressed by xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PK\x07\x08", "a part of a zip archive that was split"),
    (b"\x7fELF", "a program or a library"),
];
const GGML: &str = "a GGML file from before GGUF: convert it with llama.cpp's convert_llama_ggml_to_gguf.py, or fetch \
                    a GGUF of the model";
const REFUSED: &str = "was the download refused, for want of a token or of consent to a licence?";

/// What a file is that begins like this, and has so many bytes in all; `None` if that is not known.
pub(crate) fn recognised(begin: &[u8], bytes: u64) -> Option<Fault> {
    let invalid =
        |message: String| Some(Fault { at: Some(0), ..Fault::new(SourceErrorKind::Invalid, message) });
    let other =
        |message: String| Some(Fault { at: Some(0), ..Fault::new(SourceErrorKind::Unsupported, message) });
    if bytes == 0 {
        let message =
            "the file is empty, 0 bytes are too few for a checkpoint: was its download or copy cut off?";
        return Some(Fault { at: Some(0), ..Fault::new(SourceErrorKind::Truncated, message) });
    }
    if let Some((_, what)) = BEGINNINGS.iter().find(|(beginning, _)| begin.starts_with(beginning)) {
        return other((*what).to_owned());
    }
    if begin.get(257..262) == Some(b"ustar") {
        return other("a tar archive: unpack it first".to_owned());
    }
    if begin.get(4..8) == Some(b"TFL3") {
        return other("a TensorFlow Lite model, which has no format that is read".to_owned());
    }
    if matches!(begin, [0x80, 2..=5, ..]) {
        let what = "a pickle that torch.save has not written: load it where it comes from and save its weights as \
                    safetensors";
        return other(what.to_owned());
    }
    if matches!(begin, [0x08, 1..=20, 0x12 | 0x1a | 0x22 | 0x28 | 0x3a | 0x42, ..]) {
        let what =
            "an ONNX model, or another protocol buffer: save its weights (the initializers) as safetensors";
        return other(what.to_owned());
    }
    let text = text(begin)?;
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        let bytes = text.lines().find_map(|line| line.strip_prefix("size "));
        let size = bytes.map_or(String::new(), |bytes| format!(" of {bytes} bytes"));
        return invalid(format!(
            "a git-lfs pointer, not the file{size} itself: run `git lfs pull` where it was cloned, or download the file"
        ));
    }
    let begins = |with: &str| text.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    if begins("<!doctype html") || begins("<html") {
        return invalid(format!("an HTML page, not a checkpoint: fetch the file by its own link; {REFUSED}"));
    }
    let line = text.split(['\r', '\n']).find(|line| !line.trim().is_empty()).unwrap_or_default();
    let line: String = line.trim().chars().take(MOST_QUOTED).collect();
    invalid(format!("a text, not a checkpoint, that begins with {}: {REFUSED}", quoted(&line)))
}

/// The beginning of a file as text, without blanks before it, if it is one.
fn text(begin: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(begin) {
        Ok(text) => text,
        // The last character may be cut off.
        Err(e) if e.error_len().is_none() && e.valid_up_to() > 0 => {
            std::str::from_utf8(begin.get(..e.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let is_text = |c: char| !c.is_control() || matches!(c, '\t' | '\r' | '\n');
    (!text.is_empty() && text.chars().all(is_text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(begin: &[u8], kind: SourceErrorKind, says: &str) {
        let fault = recognised(begin, begin.len() as u64).unwrap();
        assert!(fault.kind == kind && fault.message.contains(says), "{}: {fault:?}", begin.escape_ascii());
    }

    #[test]
    fn each_kind_of_file_has_a_sentence_of_its_own() {
        use SourceErrorKind::{Invalid, Truncated, Unsupported};
        check(b"", Truncated, "empty");
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n";
        check(pointer, Invalid, "git-lfs pointer, not the file of 1234 bytes itself: run `git lfs pull`");
        check(b"<!DOCTYPE html>\n<html lang=\"en\">", Invalid, "an HTML page");
        check(b"\n  <HTML><body>", Invalid, "an HTML page");
        check(b"\x89HDF\r\n\x1a\n\0\0\0", Unsupported, "HDF5");
        check(b"\x93NUMPY\x01\0v\0{'descr': '<f4'}", Unsupported, "a NumPy array");
        check(b"\x08\x07\x12\x07pytorch\x1a\x051.13", Unsupported, "ONNX");
        check(b"tjgg\x03\0\0\0\0\x7d\0\0", Unsupported, "convert_llama_ggml_to_gguf.py");
        check(b"lmgg\0\x7d\0\0", Unsupported, "GGML");
        check(b"Invalid token\n", Invalid, "begins with \"Invalid token\": was the download refused");
        check(br#"{"error":"Invalid credentials"}"#, Invalid, "a text, not a checkpoint");
        check("Zugriff verweigert: größ".as_bytes(), Invalid, "Zugriff");
        check(b"Zugriff verweigert: gr\xc3", Invalid, "Zugriff");
        check(b"\x1f\x8b\x08\0\0\0\0\0", Unsupported, "gzip");
        check(b"\x80\x04\x95\0\0\0\0\0\0\0\0}", Unsupported, "a pickle that torch.save has not written");
        let mut tar = vec![0; 512];
        tar[..8].copy_from_slice(b"dir/data");
        tar[257..262].copy_from_slice(b"ustar");
        check(&tar, Unsupported, "tar");
        for unknown in [&[0xFF; 16][..], b"abc\0defghijk", &[0, 0, 0, 0, 0, 0, 0, 64]] {
            assert!(recognised(unknown, 16).is_none(), "{unknown:?}");
        }
    }
}
