//! Zip archives: the pickle in `data.pkl`, each storage an entry of its own that is read in place.

use vram_types::{FileId, SourceError, SourceErrorKind};

use super::pickle;
use super::state::{self, Place, Places};
use crate::catalog::contents::Contents;
use crate::catalog::names::Names;
use crate::fault::{Fault, quoted};
use crate::format::safetensors::header::MOST_HEADER_BYTES;
use crate::format::zip::Archive;
use crate::io::{Storage, read_exact};

const PICKLE: &str = "data.pkl";

/// Reads the directory and the pickle of an archive, and the header of each entry that a tensor
/// needs.
pub(crate) fn read(file: &dyn Storage, id: FileId, names: &mut Names) -> Result<Contents, SourceError> {
    let mut archive = Archive::read(file)?;
    let failed = |f: Fault| file.named(f.into_error());
    let prefix = prefix(&archive).map_err(failed)?;
    let swapped = match contents(&mut archive, file, &format!("{prefix}byteorder"), 16)? {
        None => false,
        Some((_, order)) => match order.as_slice() {
            b"little" => false,
            b"big" => true,
            _ => return Err(failed(Fault::new(SourceErrorKind::Invalid, "a byte order that is none"))),
        },
    };
    let pickle = contents(&mut archive, file, &format!("{prefix}{PICKLE}"), MOST_HEADER_BYTES)?;
    let (at, text) = pickle.ok_or_else(|| failed(no_pickle(&archive)))?;
    let shifted = |f: Fault| failed(Fault { at: f.at.map(|offset| offset + at), ..f });
    let unpickled = pickle::read(&text, 0, text.len() + archive.directory_bytes()).map_err(shifted)?;
    state::is_container(&unpickled, &text).map_err(shifted)?;
    let known = vec![None; archive.len()];
    let mut entries = Entries { archive, file, prefix, swapped, known };
    let contents = state::contents(&text, unpickled, at, id, names, &mut entries).map_err(|e| match e {
        Failed::Fault(f) => failed(f),
        Failed::Error(e) => e,
    })?;
    Ok(Contents { bytes_read: entries.archive.bytes_read + text.len() as u64, ..contents })
}

/// The folder, with its slash, that holds the pickle: the archive has one, of any name.
fn prefix(archive: &Archive) -> Result<String, Fault> {
    let is_pickle = |name: &&str| match name.split_once('/') {
        Some((_, rest)) => rest == PICKLE,
        None => *name == PICKLE,
    };
    let mut pickles = archive.names().filter(is_pickle);
    match (pickles.next(), pickles.next()) {
        (Some(one), None) => Ok(one[..one.len() - PICKLE.len()].to_owned()),
        (None, _) => Err(no_pickle(archive)),
        (Some(a), Some(b)) => {
            let message = format!("two pickles, {} and {}", quoted(a), quoted(b));
            Err(Fault::new(SourceErrorKind::Invalid, message))
        }
    }
}

fn no_pickle(archive: &Archive) -> Fault {
    const CHECKPOINTS: [&str; 6] = [".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".gguf"];
    let ends = |with: &[&str]| archive.names().find(|name| with.iter().any(|end| name.ends_with(end)));
    let mut message = "a zip archive without a data.pkl: not written by torch.save".to_owned();
    if let Some(inside) = ends(&CHECKPOINTS) {
        message = format!("{message}; it holds {}: unpack it first", quoted(inside));
    } else if ends(&[".npy"]).is_some() {
        message += "; it holds NumPy arrays: save them with safetensors.numpy.save_file";
    }
    Fault::new(SourceErrorKind::Invalid, message)
}

/// Where an entry's bytes are, and the bytes; `None` if there is no such entry.
fn contents(
    archive: &mut Archive,
    file: &dyn Storage,
    name: &str,
    most: u64,
) -> Result<Option<(u64, Vec<u8>)>, SourceError> {
    let Some(number) = archive.find(name) else { return Ok(None) };
    let at = archive.contents(file, number)?;
    let bytes = archive.entry(number).map_or(0, |entry| entry.bytes);
    if bytes > most {
        let message = format!("the entry {} has {bytes} bytes; at most {most} are read", quoted(name));
        return Err(file.named(SourceError::new(SourceErrorKind::Invalid, message)).at_offset(at));
    }
    let mut text = vec![0; bytes as usize];
    read_exact(file, &mut text, at)?;
    Ok(Some((at, text)))
}

struct Entries<'a> {
    archive: Archive,
    file: &'a dyn Storage,
    prefix: String,
    swapped: bool,
    /// Where each entry's bytes are, once its header was read.
    known: Vec<Option<u64>>,
}

/// A fault without a path, or an error with one.
enum Failed {
    Fault(Fault),
    Error(SourceError),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Failed {
        Failed::Fault(fault)
    }
}

impl Places for Entries<'_> {
    type Error = Failed;

    fn place(&mut self, key: &str) -> Result<Place, Failed> {
        let name = format!("{}data/{key}", self.prefix);
        let found = self.archive.find(&name).and_then(|number| Some((number, *self.archive.entry(number)?)));
        let Some((number, entry)) = found else {
            let message = format!("the archive has no entry {}", quoted(&name));
            return Err(Fault::new(SourceErrorKind::Truncated, message).into());
        };
        let at = match self.known.get(number).copied().flatten() {
            Some(at) => at,
            None => self.archive.contents(self.file, number).map_err(Failed::Error)?,
        };
        if let Some(known) = self.known.get_mut(number) {
            *known = Some(at);
        }
        Ok(Place { at, bytes: entry.bytes, swapped: self.swapped })
    }
}
