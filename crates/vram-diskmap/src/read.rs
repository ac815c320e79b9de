//! Reading tensors and slices of tensors.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering;

use vram_types::{FileId, ReadRequest, ReadTarget, SourceError, SourceErrorKind, TensorMeta, WeightSource};

use crate::computed::cannot;
use crate::convert;
use crate::diskmap::{DiskMap, TensorInfo};
use crate::fault::Fault;
use crate::io::{self, ReadMode};
use crate::read_many::{Part, Until, waited_for};
use crate::slice::Runs;

/// Runs of a slice with gaps up to this many bytes are read together: storage reads whole pages anyway.
const MOST_GAP_BYTES: u64 = 4096;
/// Most bytes of such a joint read.
const MOST_JOINT_BYTES: u64 = 1 << 20;
/// What decoding and converting make of a byte at most.
const MOST_EXPANSION: u64 = 64;
/// From here on a tensor gets memory congruent to its offset, so that a direct read needs no copy.
const LEAST_CONGRUENT_BYTES: usize = 128 << 10;

/// A tensor in host memory.
#[derive(Clone, PartialEq, Eq)]
pub struct HostTensor {
    meta: TensorMeta,
    buffer: Vec<u8>,
    at: usize,
    len: usize,
}

impl HostTensor {
    /// A tensor that `fill` writes into zeros.
    pub(crate) fn filled(
        meta: TensorMeta,
        fill: impl FnOnce(&mut [u8]) -> Result<(), SourceError>,
    ) -> Result<HostTensor, SourceError> {
        let len = memory(meta.bytes())?;
        let mut buffer = zeros(len, 0)?;
        fill(&mut buffer)?;
        Ok(HostTensor { meta, buffer, at: 0, len })
    }

    /// Dtype and shape.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// The elements, little-endian, row-major. Their address has no particular alignment.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.at..self.at + self.len).unwrap_or_default()
    }

    /// The same as a vector; moves the bytes where they do not begin it.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.buffer.truncate(self.at + self.len);
        self.buffer.drain(..self.at);
        self.buffer
    }
}

impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostTensor({} {}, {} bytes)", self.meta.dtype(), self.meta.shape(), self.len)
    }
}

impl DiskMap {
    /// Reads a whole tensor.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name; `Truncated` or `Invalid` if the file has changed; `Io`.
    pub fn get(&self, name: &str) -> Result<HostTensor, SourceError> {
        let info = self.info(name)?;
        let len = memory(info.meta.bytes()).map_err(|e| e.at_tensor(name))?;
        let (buffer, at) = match self.fresh(info, len).transpose().map_err(|e| e.at_tensor(name))? {
            Some(buffer) => (buffer, 0),
            None => {
                let (mut buffer, at) =
                    self.congruent(info, len, info.offset).map_err(|e| e.at_tensor(name))?;
                self.read_whole(info, &mut buffer, (at, len))?;
                (buffer, at)
            }
        };
        self.unchanged(info)?;
        Ok(HostTensor { meta: info.meta.clone(), buffer, at, len })
    }

    /// Reads several whole tensors as one batch: by several threads, neighbours together, and each stored byte once.
    ///
    /// # Errors
    /// As [`DiskMap::get`], of the first that fails.
    pub fn get_many(&self, names: &[&str]) -> Result<Vec<HostTensor>, SourceError> {
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            let info = self.info(name)?;
            let len = memory(info.meta.bytes()).map_err(|e| e.at_tensor(*name))?;
            let (buffer, at) = self.congruent(info, len, info.offset).map_err(|e| e.at_tensor(*name))?;
            tensors.push(HostTensor { meta: info.meta.clone(), buffer, at, len });
        }
        let mut requests: Vec<ReadRequest<'_>> = names
            .iter()
            .zip(&mut tensors)
            .map(|(name, HostTensor { buffer, at, len, .. })| ReadRequest {
                target: ReadTarget::Tensor { name, offset: 0 },
                bytes: *len as u64,
                dst: buffer,
                at: *at,
            })
            .collect();
        let (priority, cancel) = waited_for();
        self.read_many(&mut requests, priority, cancel)?;
        Ok(tensors)
    }

    /// Reads a whole tensor into memory of exactly its size.
    ///
    /// # Errors
    /// As [`DiskMap::get`]; `OutOfRange` if `dst` has another length.
    pub fn read_into(&self, name: &str, dst: &mut [u8]) -> Result<(), SourceError> {
        let info = self.info(name)?;
        if dst.len() as u64 != info.meta.bytes() {
            let message = format!("{} bytes do not fit a buffer of {}", info.meta.bytes(), dst.len());
            return Err(SourceError::new(SourceErrorKind::OutOfRange, message).at_tensor(name));
        }
        let len = dst.len();
        self.read_whole(info, dst, (0, len))?;
        self.unchanged(info)
    }

    /// Reads a part of a tensor: one range per extent, outermost first; extents without a range are taken whole.
    ///
    /// Only the slice's own bytes are asked of storage; runs with gaps of less than a page are read together.
    ///
    /// # Errors
    /// As [`DiskMap::get`]; `OutOfRange` if the slice is outside the shape, `Unsupported` if it begins or ends in the middle
    /// of a byte (`F4`, `F6_E2M3`, `F6_E3M2`).
    pub fn get_slice(&self, name: &str, ranges: &[Range<usize>]) -> Result<HostTensor, SourceError> {
        let info = self.info(name)?;
        let failed = |f: Fault| f.of(name).into_error();
        if info.block.is_some() || info.strides.is_some() {
            return self.computed_slice(info, &Runs::new(&info.meta, ranges).map_err(failed)?);
        }
        let stored =
            TensorMeta::new(info.stored, info.meta.shape().clone()).map_err(|e| cannot(info, e, name))?;
        let runs = Runs::new(&stored, ranges).map_err(failed)?;
        let len = memory(runs.meta.bytes()).map_err(|e| e.at_tensor(name))?;
        let first = info.offset + runs.starts().next().unwrap_or(0);
        let (mut buffer, at) = self.congruent(info, len, first).map_err(|e| e.at_tensor(name))?;
        self.read_runs(info, &runs, &mut buffer, at)?;
        self.unchanged(info)?;
        if !info.is_converted() {
            return Ok(HostTensor { meta: runs.meta, buffer, at, len });
        }
        let meta = TensorMeta::new(info.meta.dtype(), runs.meta.shape().clone())
            .map_err(|e| cannot(info, e, name))?;
        let mut converted = vec![0; memory(meta.bytes())?];
        convert::cast(&buffer[at..at + len], info.stored, &mut converted, meta.dtype())
            .map_err(|e| cannot(info, e, name))?;
        let len = converted.len();
        Ok(HostTensor { meta, buffer: converted, at: 0, len })
    }

    /// The slice of a tensor whose bytes are not those of the file.
    fn computed_slice(&self, info: &TensorInfo, runs: &Runs) -> Result<HostTensor, SourceError> {
        let name = self.names.get(info.name);
        let len = memory(runs.meta.bytes()).map_err(|e| e.at_tensor(name))?;
        let (mut buffer, at) = self.congruent(info, len, info.offset).map_err(|e| e.at_tensor(name))?;
        let run_bytes = runs.bytes as usize;
        for (run, start) in runs.starts().enumerate() {
            let part = &mut buffer[at + run * run_bytes..at + (run + 1) * run_bytes];
            self.read_computed(info, start, part, waited_for())?;
        }
        self.unchanged(info)?;
        Ok(HostTensor { meta: runs.meta.clone(), buffer, at, len })
    }

    /// Reads a whole tensor into `dst[at..at + len]`, after conversion.
    fn read_whole(
        &self,
        info: &TensorInfo,
        dst: &mut [u8],
        (at, len): (usize, usize),
    ) -> Result<(), SourceError> {
        if info.is_computed() {
            let part = Part { info, offset: 0, dst: &mut dst[at..at + len] };
            return self.read_parts(vec![part], waited_for());
        }
        self.read_file(info.file, info.offset, dst, (at, len), waited_for())
    }

    /// A long tensor that the page cache or a map holds, in memory that is not zeroed first; `None` for any other.
    #[cfg(target_os = "linux")]
    fn fresh(&self, info: &TensorInfo, len: usize) -> Option<Result<Vec<u8>, SourceError>> {
        if info.is_computed() || len < LEAST_CONGRUENT_BYTES {
            return None;
        }
        let read = self.files[info.file.0 as usize].read_fresh(self.mode, info.offset, len)?;
        if read.is_ok() {
            self.bytes_read.fetch_add(len as u64, Ordering::Relaxed);
        }
        Some(read)
    }

    #[cfg(not(target_os = "linux"))]
    fn fresh(&self, _: &TensorInfo, _: usize) -> Option<Result<Vec<u8>, SourceError>> {
        None
    }

    /// Reads `dst[at..at + len]` from a file, where `part` is `(at, len)`, and counts it. The caller has checked the bounds.
    pub(crate) fn read_file(
        &self,
        file: FileId,
        offset: u64,
        dst: &mut [u8],
        part: (usize, usize),
        until: Until<'_>,
    ) -> Result<(), SourceError> {
        self.read_pieces(self.piece(file, offset, dst, part).into_iter().collect(), until)
    }

    /// Fails if the tensor's file has been written to since it was opened.
    pub(crate) fn unchanged(&self, info: &TensorInfo) -> Result<(), SourceError> {
        let file = &self.files[info.file.0 as usize];
        file.unchanged().map_err(|e| e.at_tensor(self.names.get(info.name)))
    }

    pub(crate) fn info(&self, name: &str) -> Result<&TensorInfo, SourceError> {
        self.tensor(name).ok_or_else(|| {
            if let Some(there) = self.unreadable.iter().find(|t| self.names.get(t.name) == name) {
                let error = SourceError::new(SourceErrorKind::Unsupported, &*there.why).at_tensor(name);
                return match self.files.get(there.file.0 as usize) {
                    Some(file) => error.at_path(file.path()),
                    None => error,
                };
            }
            let error = SourceError::new(SourceErrorKind::NotFound, "the checkpoint has no such tensor")
                .at_tensor(name);
            match self.files.as_slice() {
                [only] => error.at_path(only.path()),
                _ => error,
            }
        })
    }

    fn read_runs(
        &self,
        info: &TensorInfo,
        runs: &Runs,
        dst: &mut [u8],
        at: usize,
    ) -> Result<(), SourceError> {
        let run_bytes = runs.bytes as usize;
        let mut starts = runs.starts().peekable();
        let (mut group, mut scratch) = (Vec::new(), Vec::new());
        let mut done = at;
        while let Some(first) = starts.next() {
            group.clear();
            group.push(first);
            let mut last = first;
            while let Some(next) = starts.next_if(|&next| {
                next - (last + runs.bytes) <= MOST_GAP_BYTES && next + runs.bytes - first <= MOST_JOINT_BYTES
            }) {
                group.push(next);
                last = next;
            }
            let offset = info.offset + first;
            if group.len() == 1 {
                // What lies before `done` is kept; what follows is slack until its own run is read.
                self.read_file(info.file, offset, &mut dst[done..], (0, run_bytes), waited_for())?;
                done += run_bytes;
                continue;
            }
            scratch.resize((last + runs.bytes - first) as usize, 0);
            let len = scratch.len();
            self.read_file(info.file, offset, &mut scratch, (0, len), waited_for())?;
            for start in &group {
                let from = (start - first) as usize;
                dst[done..done + run_bytes].copy_from_slice(&scratch[from..from + run_bytes]);
                done += run_bytes;
            }
            // What lies between the runs was not asked for.
            let between = len as u64 - runs.bytes * group.len() as u64;
            self.bytes_read.fetch_sub(between, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Memory for `len` bytes of the file at `file_at`: with slack, and congruent to the offset, where a direct read pays.
    fn congruent(
        &self,
        info: &TensorInfo,
        len: usize,
        file_at: u64,
    ) -> Result<(Vec<u8>, usize), SourceError> {
        let file = &self.files[info.file.0 as usize];
        if info.is_computed() {
            return Ok((zeros(len, file.bytes())?, 0));
        }
        if len < LEAST_CONGRUENT_BYTES || self.mode == ReadMode::Buffered || file.map().is_some() {
            return Ok((io::zeroed(len), 0));
        }
        if self.mode == ReadMode::Auto && file.is_cached(file_at, len) {
            return Ok((io::zeroed(len), 0));
        }
        let align = file.direct_alignment();
        let buffer = io::zeroed(len + 2 * align);
        let base = buffer.as_ptr() as usize % align;
        let at = (file_at as usize % align + align - base) % align;
        Ok((buffer, at))
    }
}

/// Memory for a tensor whose size is not bounded by that of its file: expanded ones are as large as the file claims.
fn zeros(len: usize, file_bytes: u64) -> Result<Vec<u8>, SourceError> {
    if len as u64 / MOST_EXPANSION <= file_bytes {
        return Ok(io::zeroed(len));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|e| {
        let message = format!("no memory for {len} bytes");
        SourceError::new(SourceErrorKind::Unsupported, message).caused_by(e)
    })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

fn memory(bytes: u64) -> Result<usize, SourceError> {
    usize::try_from(bytes).map_err(|_| {
        SourceError::new(SourceErrorKind::Unsupported, "larger than this machine's address space")
    })
}
