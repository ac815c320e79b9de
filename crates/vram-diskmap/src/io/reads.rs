//! Where reads come in; afterwards mounts are probed for which that has become due.

use smallvec::SmallVec;
use vram_types::SourceError;

use super::local::LocalFile;
use super::perform::perform;
use super::probe;
use super::task::{Failed, Read, Task};
use super::terms::Terms;

/// Performs one read on the calling thread.
pub(crate) fn read_one(terms: &Terms<'_>, read: Read<'_>) -> Result<(), SourceError> {
    let file = read.file;
    file.read(terms, read.piece)?;
    if let Some(file) = file.local() {
        probe::if_due(file);
    }
    Ok(())
}

/// Performs all reads, in about their order. After a failure the rest is not begun; when this
/// returns nothing is on its way.
pub(crate) fn read_all(terms: &Terms<'_>, tasks: Vec<Task<'_>>) -> Result<(), Failed> {
    let mut files: SmallVec<[&LocalFile; 4]> = SmallVec::new();
    for file in tasks.iter().filter_map(|task| task.begins()?.1.local()) {
        if files.last().is_none_or(|last| !std::ptr::eq(*last, file)) {
            files.push(file);
        }
    }
    perform(terms, tasks)?;
    files.into_iter().for_each(probe::if_due);
    Ok(())
}
