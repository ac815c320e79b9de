//! Several sources whose files are numbered one after the other.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{FileId, FileRange, HostBytes, Located, ReadOptions, ReadRequest, ReadTarget, WeightSource};
use crate::{SourceError, SourceErrorKind};

/// Sources that are read as one. A source that is there twice is one part, so that what it stores
/// stays tied.
#[derive(Default)]
pub(super) struct Parts(Vec<Part>);

struct Part {
    source: Arc<dyn WeightSource>,
    /// The number of its first file among those of all parts.
    first: u32,
    /// How many numbers its files take.
    files: u32,
}

impl Parts {
    /// Adds a source and returns its number.
    pub(super) fn add(&mut self, source: Arc<dyn WeightSource>) -> Result<usize, SourceError> {
        let same = |part: &Part| Arc::as_ptr(&part.source).cast::<()>() == Arc::as_ptr(&source).cast::<()>();
        if let Some(there) = self.0.iter().position(same) {
            return Ok(there);
        }
        let first = self.0.last().map_or(0, |last| last.first + last.files);
        let located = source.names().filter_map(|name| source.locate(name));
        let last = located.map(|mut l| files(&mut l).map(|file| *file).max()).max().flatten();
        let files = last.map_or(Some(0), |last| last.0.checked_add(1));
        let files = files.filter(|files| first.checked_add(*files).is_some()).ok_or_else(|| {
            SourceError::new(SourceErrorKind::Unsupported, "the sources have more files than can be numbered")
        })?;
        self.0.push(Part { source, first, files });
        Ok(self.0.len() - 1)
    }

    pub(super) fn get(&self, part: usize) -> Option<&dyn WeightSource> {
        Some(&*self.0.get(part)?.source)
    }

    /// Where a tensor of a part is, among the files of all.
    pub(super) fn locate(&self, part: usize, name: &str) -> Option<Located> {
        let Part { source, first, .. } = self.0.get(part)?;
        let mut located = source.locate(name)?;
        files(&mut located).for_each(|file| file.0 += first);
        Some(located)
    }

    /// The part that has a file, and the part's own number of it.
    fn file(&self, file: FileId) -> Option<(usize, FileId)> {
        let part = self.0.partition_point(|part| part.first + part.files <= file.0);
        let own = file.0.checked_sub(self.0.get(part)?.first)?;
        Some((part, FileId(own)))
    }

    pub(super) fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        let (part, file) = self.file(file)?;
        self.get(part)?.describe(file)
    }

    pub(super) fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        let (part, file) = self.file(range.file)?;
        self.get(part)?.map(FileRange { file, ..range })
    }

    pub(super) fn alignment(&self) -> u64 {
        // Powers of two: what is congruent modulo the largest is congruent modulo each.
        self.0.iter().map(|part| part.source.alignment()).max().unwrap_or(1)
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.0.iter().map(|part| part.source.bytes_read()).fold(0, u64::saturating_add)
    }

    /// Reads part after part, what concerns a part at once.
    ///
    /// `find` gives the part that has a tensor and the part's own name of it; `name` gives the
    /// name of a part's tensor as the caller knows it.
    pub(super) fn read_many<'a>(
        &self,
        requests: &mut [ReadRequest<'a>],
        options: &ReadOptions,
        find: impl Fn(&'a str) -> Option<(usize, &'a str)>,
        name: impl Fn(usize, &str) -> String,
    ) -> Result<(), SourceError> {
        let target = |request: &ReadRequest<'a>| match request.target {
            ReadTarget::File { file, offset } => {
                let (part, file) = self.file(file).ok_or_else(|| {
                    SourceError::new(SourceErrorKind::NotFound, format!("no file has the number {}", file.0))
                })?;
                Ok((part, ReadTarget::File { file, offset }))
            }
            ReadTarget::Tensor { name, offset } => {
                let (part, name) = find(name).ok_or_else(|| {
                    SourceError::new(SourceErrorKind::NotFound, "no source has such a tensor").at_tensor(name)
                })?;
                Ok((part, ReadTarget::Tensor { name, offset }))
            }
        };
        let targets = requests.iter().map(target).collect::<Result<SmallVec<[_; 4]>, SourceError>>()?;
        for (number, Part { source, .. }) in self.0.iter().enumerate() {
            let of_part = requests.iter_mut().zip(&targets).filter(|(_, (part, _))| *part == number);
            let mut own: SmallVec<[ReadRequest<'_>; 4]> = of_part
                .map(|(ReadRequest { bytes, dst, at, .. }, &(_, target))| ReadRequest {
                    target,
                    bytes: *bytes,
                    dst,
                    at: *at,
                })
                .collect();
            if own.is_empty() {
                continue;
            }
            source.read_many(&mut own, options).map_err(|e| {
                match e.tensor().map(|own| name(number, own)) {
                    Some(name) => e.at_tensor(name),
                    None => e,
                }
            })?;
        }
        Ok(())
    }
}

/// All files that a tensor names.
fn files(located: &mut Located) -> impl Iterator<Item = &mut FileId> {
    let encoded = located.encoded.iter_mut().flat_map(|encoded| &mut encoded.ranges);
    let ranges = located.ranges.iter_mut().chain(encoded).map(|range| &mut range.file);
    std::iter::once(&mut located.storage.file).chain(ranges)
}
