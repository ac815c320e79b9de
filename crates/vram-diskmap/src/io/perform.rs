//! Performing tasks: by a ring what is to be read by one, by their storages what is not on this
//! machine, and by threads everything else.

use vram_types::{FileId, SourceError};

use super::elsewhere::Elsewhere;
use super::storage::StorageRead;
use super::stored::FileRef;
use super::task::{Failed, Task};
use super::terms::Terms;
use super::threads::{THREADS, processors, share};
#[cfg(all(target_os = "linux", feature = "io-uring"))]
use super::uring;

/// Neighbours that are read together from a storage take this much memory at a time, or one read.
const MOST_JOINT_BYTES: usize = 16 << 20;

/// Performs all reads, in about their order. After a failure the rest is not begun; when this
/// returns nothing is on its way.
pub(super) fn perform(terms: &Terms<'_>, tasks: Vec<Task<'_>>) -> Result<(), Failed> {
    let tasks = read_elsewhere(terms, tasks)?;
    #[cfg(all(target_os = "linux", feature = "io-uring"))]
    let tasks = uring::read_cold(terms, tasks)?;
    let bytes: usize = tasks.iter().map(Task::bytes).sum();
    let mapped = tasks.iter().all(|task| {
        task.begins().is_some_and(|(_, file, _)| file.local().is_some_and(|f| f.map().is_some()))
    });
    share(tasks, bytes, if mapped { processors() } else { THREADS }, |task| {
        let place = task.place();
        let read = terms.options.check().and_then(|()| task.run(terms));
        read.map_err(|error| Failed { place, error: Box::new(error) })
    })
}

/// Has storages read what is theirs. Returns the rest.
fn read_elsewhere<'a>(terms: &Terms<'_>, tasks: Vec<Task<'a>>) -> Result<Vec<Task<'a>>, Failed> {
    if tasks.iter().all(|task| elsewhere(task).is_none()) {
        return Ok(tasks);
    }
    let (theirs, rest): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| elsewhere(task).is_some());
    let mut theirs = theirs.into_iter().peekable();
    // Tasks are in the order of their files.
    while let Some((id, file)) = theirs.peek().and_then(elsewhere) {
        let mut joint_bytes = 0;
        let mut own: Vec<Task<'a>> = Vec::new();
        while let Some(task) = theirs.next_if(|task| {
            elsewhere(task).is_some_and(|(other, _)| other == id)
                && (joint_bytes == 0 || joint_bytes + task.joint_bytes() <= MOST_JOINT_BYTES)
        }) {
            joint_bytes += task.joint_bytes();
            own.push(task);
        }
        read_together(terms, file, own).map_err(|error| {
            let place = error.offset().map(|offset| (id, offset));
            Failed { place, error: Box::new(error) }
        })?;
    }
    Ok(rest)
}

fn elsewhere<'a>(task: &Task<'a>) -> Option<(FileId, &'a Elsewhere)> {
    match task.begins()? {
        (id, FileRef::Elsewhere(file), _) => Some((id, file)),
        _ => None,
    }
}

fn read_together(terms: &Terms<'_>, file: &Elsewhere, mut tasks: Vec<Task<'_>>) -> Result<(), SourceError> {
    let mut joints: Vec<Vec<u8>> = tasks.iter().map(|task| vec![0; task.joint_bytes()]).collect();
    let mut reads: Vec<StorageRead<'_>> = Vec::with_capacity(tasks.len());
    for (task, joint) in tasks.iter_mut().zip(&mut joints) {
        let Some((_, _, offset)) = task.begins() else { continue };
        let dst = match task {
            Task::One(read) => read.piece.wanted(),
            Task::Joint(_) => joint.as_mut_slice(),
        };
        reads.push(StorageRead { offset, dst });
    }
    file.read_many(terms, &mut reads)?;
    drop(reads);
    for (task, bytes) in tasks.iter_mut().zip(&joints) {
        if let Task::Joint(joint) = task {
            joint.scatter(bytes);
        }
    }
    Ok(())
}
