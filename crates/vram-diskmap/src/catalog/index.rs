//! `*.index.json` of a sharded checkpoint: which tensor is in which file. Without I/O.

use std::path::{Component, Path};

use crate::catalog::names::{NameRef, Names, Table, count};
use crate::fault::{Fault, quoted};
use crate::format::json::Cursor;

/// A checked index.
pub(crate) struct Index {
    text: Names,
    /// Tensor and file name.
    entries: Vec<(NameRef, NameRef)>,
    table: Table,
    /// The files, sorted, each once.
    files: Vec<NameRef>,
}

impl Index {
    /// Reads an index; file names may lead to sub-folders but not out of the index's own.
    pub(crate) fn parse(json: &[u8]) -> Result<Index, Fault> {
        let json = std::str::from_utf8(json)
            .map_err(|e| Fault::invalid(e.valid_up_to(), "the index is not UTF-8"))?;
        let mut cursor = Cursor::new(json, 0);
        let (mut text, mut entries) = (Names::default(), Vec::new());
        let (mut keys, mut places) = (Names::default(), Vec::new());
        let mut found = false;
        cursor.blanks();
        cursor.object(|c, key, at| {
            places.push((keys.push(&key)?, at));
            if key != "weight_map" {
                return c.skip();
            }
            if std::mem::replace(&mut found, true) {
                return Err(Fault::invalid(at, "weight_map occurs twice"));
            }
            weight_map(c, &mut text, &mut entries)
        })?;
        cursor.blanks();
        if !cursor.rest().is_empty() {
            return Err(cursor.fault("bytes after the index's closing '}'"));
        }
        if !found {
            return Err(Fault::invalid(0, "the index has no weight_map"));
        }
        let key_of = |i: u32| places.get(i as usize).map_or("", |(key, _)| keys.get(*key));
        if let Err((_, second)) = Table::build(count(places.len())?, key_of) {
            let at = places.get(second as usize).map_or(0, |(_, at)| *at);
            return Err(Fault::invalid(at, format!("the index has {} twice", quoted(key_of(second)))));
        }
        Index::new(text, entries)
    }

    /// The files' names, sorted.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|&file| self.text.get(file))
    }

    /// How many tensors the index names.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The names of all tensors.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|&(name, _)| self.text.get(name))
    }

    /// The file that the index gives for a tensor.
    pub(crate) fn file_of(&self, tensor: &str) -> Option<&str> {
        let number = self.table.find(tensor, |i| self.text.get(self.entries[i as usize].0))?;
        Some(self.text.get(self.entries.get(number as usize)?.1))
    }

    fn new(text: Names, entries: Vec<(NameRef, NameRef)>) -> Result<Index, Fault> {
        let name_of = |i: u32| entries.get(i as usize).map_or("", |(name, _)| text.get(*name));
        let table = Table::build(count(entries.len())?, name_of).map_err(|(_, second)| {
            let message = "weight_map has the tensor twice";
            Fault::new(vram_types::SourceErrorKind::Invalid, message).of(name_of(second))
        })?;
        let mut files: Vec<NameRef> = entries.iter().map(|&(_, file)| file).collect();
        // Neighbours share a name that is kept once; the few that are left are compared as text.
        files.dedup();
        files.sort_unstable_by_key(|&file| text.get(file));
        files.dedup_by_key(|file| text.get(*file));
        files.shrink_to_fit();
        Ok(Index { text, entries, table, files })
    }
}

fn weight_map(
    c: &mut Cursor<'_>,
    text: &mut Names,
    entries: &mut Vec<(NameRef, NameRef)>,
) -> Result<(), Fault> {
    if c.peek() != Some(b'{') {
        return Err(c.fault("weight_map is not an object"));
    }
    c.object(|c, tensor, _| {
        let at = c.offset();
        if c.peek() != Some(b'"') {
            return Err(c.fault("the file is not a string").of(&tensor));
        }
        let file = c.string().map_err(|f| f.of(&tensor))?;
        let name = text.push(&tensor)?;
        // Neighbours are mostly in the same file, whose name is then checked and kept once.
        let file = match entries.last() {
            Some(&(_, last)) if text.get(last) == file => last,
            _ if stays_inside(&file) => text.push(&file)?,
            _ => {
                let message = format!("the file {} is not inside the index's folder", quoted(&file));
                return Err(Fault::invalid(at, message).of(&tensor));
            }
        };
        entries.push((name, file));
        Ok(())
    })
}

fn stays_inside(file: &str) -> bool {
    let mut parts = Path::new(file).components().peekable();
    parts.peek().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !file.contains(['\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_file_of_each_tensor() {
        let index = Index::parse(
            br#" {"metadata": {"total_size": 1.5e9}, "weight_map": {"b": "2.safetensors", "a": "1.safetensors", "c": "2.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(index.files().collect::<Vec<_>>(), ["1.safetensors", "2.safetensors"]);
        assert_eq!(index.file_of("c"), Some("2.safetensors"));
        assert_eq!(index.file_of("d"), None);
        assert_eq!(index.len(), 3);
    }

    #[test]
    fn paths_stay_inside() {
        let check = |path: &str, inside: bool| assert_eq!(stays_inside(path), inside, "{path:?}");
        check("a.safetensors", true);
        check("sub/a.safetensors", true);
        check("", false);
        check("/etc/passwd", false);
        check("../a.safetensors", false);
        check("sub/../../a", false);
        check("..", false);
        check(".", false);
        check("a\\..\\b", false);
        check("a\0b", false);
    }
}
