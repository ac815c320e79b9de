//! [`DiskMap`] as a [`WeightSource`].

use std::path::Path;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use vram_types::{
    CancelToken, FileId, FileRange, HostBytes, Located, Priority, ReadRequest, ReadTarget, SourceError,
    SourceErrorKind, WeightSource,
};

use crate::diskmap::DiskMap;
use crate::read_many::{Part, Pieces};

impl WeightSource for DiskMap {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.iter().map(|(name, _)| name))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let number = self.number_of(name)?;
        let info = self.tensors.get(number)?;
        let ranges = if info.is_computed() { SmallVec::new() } else { smallvec![info.range()] };
        Some(Located { meta: info.meta.clone(), storage: self.storage_of(number, info), ranges })
    }

    fn file(&self, file: FileId) -> Option<&Path> {
        Some(self.files.get(file.0 as usize)?.path())
    }

    /// Performs the requests by several threads, and through the [line](crate::ReadQueue) of all who read: urgent ones first.
    /// Short neighbours are read together, and bytes that several requests ask for are read once. Tensors that are
    /// computed come after all others.
    fn read_many(
        &self,
        requests: &mut [ReadRequest<'_>],
        priority: Priority,
        cancel: &CancelToken,
    ) -> Result<(), SourceError> {
        let mut touched: SmallVec<[(FileId, u64); 4]> = SmallVec::new();
        let (mut pieces, mut parts) = (Pieces::new(), Vec::new());
        for request in requests {
            let place = self.resolve(request, &mut pieces, &mut parts)?;
            if touched.iter().all(|(file, _)| *file != place.0) {
                touched.push(place);
            }
        }
        self.read_pieces(pieces, (priority, cancel))?;
        self.read_parts(parts, (priority, cancel))?;
        for (file, offset) in touched {
            self.files[file.0 as usize].unchanged().map_err(|e| match self.name_at(file, offset) {
                Some(name) => e.at_tensor(name),
                None => e,
            })?;
        }
        Ok(())
    }

    fn alignment(&self) -> u64 {
        self.direct_alignment() as u64
    }

    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        let file = self.files.get(range.file.0 as usize)?;
        let map = file.map()?;
        let window = range.offset.checked_add(range.bytes).and_then(|end| map.window(range.offset..end));
        Some(match window {
            Some(window) => Ok(Arc::new(window)),
            None => Err(outside(range.offset, range.bytes, file.bytes()).at_path(file.path())),
        })
    }

    fn bytes_read(&self) -> u64 {
        DiskMap::bytes_read(self)
    }
}

impl DiskMap {
    /// Adds what a request asks: of a file, or of a tensor whose bytes are computed. Returns the file, and where.
    fn resolve<'r>(
        &'r self,
        request: &'r mut ReadRequest<'_>,
        pieces: &mut Pieces<'r>,
        parts: &mut Vec<Part<'r>>,
    ) -> Result<(FileId, u64), SourceError> {
        let len = request.wanted()?.len();
        let at = request.at;
        let (file, offset) = match request.target {
            ReadTarget::File { file, offset } => {
                let stored = self.files.get(file.0 as usize).ok_or_else(|| {
                    SourceError::new(SourceErrorKind::NotFound, format!("no file has the number {}", file.0))
                })?;
                if !inside(offset, len as u64, stored.bytes()) {
                    return Err(outside(offset, len as u64, stored.bytes()).at_path(stored.path()));
                }
                (file, offset)
            }
            ReadTarget::Tensor { name, offset } => {
                let info = self.info(name)?;
                if !inside(offset, len as u64, info.meta.bytes()) {
                    return Err(outside(offset, len as u64, info.meta.bytes()).at_tensor(name));
                }
                if info.is_computed() {
                    parts.push(Part { info, offset, dst: request.wanted()? });
                    return Ok((info.file, info.offset));
                }
                (info.file, info.offset + offset)
            }
        };
        pieces.extend(self.piece(file, offset, request.dst, (at, len)));
        Ok((file, offset))
    }
}

fn inside(offset: u64, bytes: u64, end: u64) -> bool {
    offset.checked_add(bytes).is_some_and(|last| last <= end)
}

fn outside(offset: u64, bytes: u64, end: u64) -> SourceError {
    let message = format!("{bytes} bytes at {offset} of {end}");
    SourceError::new(SourceErrorKind::OutOfRange, message)
}
