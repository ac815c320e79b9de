//! Which files of a folder make up the checkpoint.

use std::path::{Path, PathBuf};

use vram_types::{SourceError, SourceErrorKind};

use crate::catalog::sets;

/// An index, or the files themselves.
pub(crate) enum Folder {
    Index(PathBuf),
    Files(Vec<PathBuf>),
}

/// Indexes and files of one format in a folder.
#[derive(Default)]
struct Family {
    indexes: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

/// Safetensors first, then PyTorch's own files, then GGUF: the first that is there.
pub(crate) fn in_folder(path: &Path) -> Result<Folder, SourceError> {
    let at = |e: std::io::Error| SourceError::io(e).at_path(path);
    let mut families: [Family; 3] = Default::default();
    let [safetensors, torch, gguf] = &mut families;
    for entry in std::fs::read_dir(path).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let ends = |with: &[&str]| with.iter().any(|end| name.ends_with(end));
        if ends(&[".bin.index.json", ".pt.index.json", ".pth.index.json"]) {
            torch.indexes.push(entry.path());
        } else if ends(&[".index.json"]) {
            safetensors.indexes.push(entry.path());
        } else if ends(&[".safetensors"]) {
            safetensors.files.push(entry.path());
        } else if ends(&[".bin", ".pt", ".pth", ".ckpt"]) {
            torch.files.push(entry.path());
        } else if ends(&[".gguf"]) {
            gguf.files.push(entry.path());
        }
    }
    // Files of PyTorch that lie together are seldom of one checkpoint: weights beside an
    // optimizer's state.
    let several = torch.files.len();
    let choices = sets::choices(&torch.files);
    let several_torch = torch.indexes.is_empty() && choices.len() > 1;
    let chosen = families.iter().position(|f| !f.indexes.is_empty() || !f.files.is_empty());
    let failed = |kind, message: String| Err(SourceError::new(kind, message).at_path(path));
    let Some(chosen) = chosen else {
        let message = "the folder has neither *.safetensors nor *.index.json, nor PyTorch's files or *.gguf";
        return failed(SourceErrorKind::NotFound, message.to_owned());
    };
    if chosen == 1 && several_torch {
        return failed(
            SourceErrorKind::Invalid,
            format!("the folder has {several} PyTorch files; open one of them: {}", sets::listed(&choices)),
        );
    }
    let Family { mut indexes, mut files } = std::mem::take(&mut families[chosen]);
    indexes.sort();
    files.sort();
    match indexes.len() {
        0 => Ok(Folder::Files(files)),
        1 => Ok(Folder::Index(indexes.remove(0))),
        n => {
            let indexes = sets::listed(&sets::choices(&indexes));
            failed(
                SourceErrorKind::Invalid,
                format!("the folder has {n} indexes; open one of them: {indexes}"),
            )
        }
    }
}
