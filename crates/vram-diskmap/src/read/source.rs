//! [`DiskMap`] as a [`WeightSource`].

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use vram_types::{
    Encoded, FileId, FileRange, HostBytes, Located, ReadOptions, ReadRequest, ReadTarget, SourceError,
    SourceErrorKind, WeightSource,
};

use crate::catalog::map::DiskMap;
use crate::read::files::Reads;
use crate::read::parts::Part;
use crate::read::strides::span;

impl WeightSource for DiskMap {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.iter().map(|(name, _)| name))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let number = self.number_of(name)?;
        let info = self.tensors.get(number)?;
        let (meta, storage) = (info.meta.clone(), self.storage_of(number, info));
        if !info.is_computed() {
            return Some(Located::new(meta, storage, [info.range()]));
        }
        // Elements that are gathered lie in no order that a reader of rows could use.
        let encoded = || Encoded { encoding: info.encoding(), ranges: smallvec![info.range()] };
        Some(Located::new(meta, storage, []).with_encoded((!info.is_gathered()).then(encoded)))
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        Some(self.files.get(file.0 as usize)?.describe())
    }

    /// Performs the requests by several threads, and through the [line](crate::ReadQueue) of all
    /// who read: urgent ones first. Short neighbours are read together, and bytes that several
    /// requests ask for are read once. Tensors that are computed come after all others.
    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        let mut touched: SmallVec<[(FileId, u64); 4]> = SmallVec::new();
        let (mut reads, mut parts) = (Reads::new(), Vec::new());
        for request in requests {
            let place = self.resolve(request, &mut reads, &mut parts)?;
            if touched.iter().all(|(file, _)| *file != place.0) {
                touched.push(place);
            }
        }
        self.read_files(reads, options)?;
        self.read_parts(parts, options)?;
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
            None => Err(file.named(outside(range.offset, range.bytes, file.bytes()))),
        })
    }

    fn bytes_read(&self) -> u64 {
        DiskMap::bytes_read(self)
    }

    fn unreadable_tensors(&self) -> Vec<(String, String)> {
        self.unreadable().map(|(name, why)| (name.to_owned(), why.to_owned())).collect()
    }

    fn stored_bytes(&self, name: &str) -> Option<u64> {
        let info = self.tensor(name)?;
        let bytes = match self.strides_of(info) {
            Some(strides) => span(info.shape(), &strides.steps)?.checked_mul(info.decoded_bytes(1))?,
            None => info.range().bytes,
        };
        Some(bytes)
    }
}

impl DiskMap {
    /// Adds what a request asks: of a file, or of a tensor whose bytes are computed. Returns the
    /// file, and where.
    fn resolve<'r>(
        &'r self,
        request: &'r mut ReadRequest<'_>,
        reads: &mut Reads<'r>,
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
                    return Err(stored.named(outside(offset, len as u64, stored.bytes())));
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
        reads.extend(self.read_of(file, offset, request.dst, (at, len)));
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
