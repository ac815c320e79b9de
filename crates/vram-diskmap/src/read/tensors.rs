//! Reading tensors and slices of tensors.

use std::ops::Range;
use std::sync::atomic::Ordering;

use vram_types::cast::cast_serial;
use vram_types::{
    ReadOptions, ReadRequest, ReadTarget, SourceError, SourceErrorKind, TensorMeta, WeightSource,
};

use crate::catalog::map::DiskMap;
use crate::catalog::tensor::TensorInfo;
use crate::fault::Fault;
use crate::io::{self, ReadMode};
use crate::read::computed::cannot;
use crate::read::host::{HostTensor, memory, zeros};
use crate::read::parts::Part;
use crate::read::slice::Runs;

/// Runs of a slice with gaps up to this many bytes are read together: storage reads whole pages
/// anyway.
const MOST_GAP_BYTES: u64 = 4096;
/// Most bytes of such a joint read.
const MOST_JOINT_BYTES: u64 = 1 << 20;
/// From here on a tensor gets memory congruent to its offset, so that a direct read needs no copy.
const LEAST_CONGRUENT_BYTES: usize = 128 << 10;

impl DiskMap {
    /// Reads a whole tensor.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name; `Truncated` or `Invalid` if the file has changed;
    /// `Io`.
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

    /// Reads several whole tensors as one batch: by several threads, neighbours together, and each
    /// stored byte once.
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
        self.read_many(&mut requests, &ReadOptions::BLOCKING)?;
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

    /// Reads a part of a tensor: one range per extent, outermost first; extents without a range
    /// are taken whole.
    ///
    /// Only the slice's own bytes are asked of storage; runs with gaps of less than a page are
    /// read together.
    ///
    /// # Errors
    /// As [`DiskMap::get`]; `OutOfRange` if the slice is outside the shape, `Unsupported` if it
    /// begins or ends in the middle of a byte (`F4`, `F6_E2M3`, `F6_E3M2`).
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
        cast_serial(&buffer[at..at + len], info.stored, &mut converted, meta.dtype())
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
            self.read_computed(info, start, part, &ReadOptions::BLOCKING)?;
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
            return self.read_parts(vec![part], &ReadOptions::BLOCKING);
        }
        self.read_file(info.file, info.offset, dst, (at, len), &ReadOptions::BLOCKING)
    }

    /// A long tensor that the page cache or a map holds, in memory that is not zeroed first;
    /// `None` for any other.
    #[cfg(target_os = "linux")]
    fn fresh(&self, info: &TensorInfo, len: usize) -> Option<Result<Vec<u8>, SourceError>> {
        if info.is_computed() || len < LEAST_CONGRUENT_BYTES {
            return None;
        }
        let read = self.files[info.file.0 as usize].local()?.read_fresh(self.mode, info.offset, len)?;
        if read.is_ok() {
            self.bytes_read.fetch_add(len as u64, Ordering::Relaxed);
        }
        Some(read)
    }

    #[cfg(not(target_os = "linux"))]
    fn fresh(&self, _: &TensorInfo, _: usize) -> Option<Result<Vec<u8>, SourceError>> {
        None
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
                // What lies before `done` is kept; what follows is slack until its own run is
                // read.
                self.read_file(info.file, offset, &mut dst[done..], (0, run_bytes), &ReadOptions::BLOCKING)?;
                done += run_bytes;
                continue;
            }
            scratch.resize((last + runs.bytes - first) as usize, 0);
            let len = scratch.len();
            self.read_file(info.file, offset, &mut scratch, (0, len), &ReadOptions::BLOCKING)?;
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

    /// Memory for `len` bytes of the file at `file_at`: with slack, and congruent to the offset,
    /// where a direct read pays.
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
        let Some(file) = file.local().filter(|file| {
            len >= LEAST_CONGRUENT_BYTES && self.mode != ReadMode::Buffered && file.map().is_none()
        }) else {
            return Ok((io::zeroed(len), 0));
        };
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
