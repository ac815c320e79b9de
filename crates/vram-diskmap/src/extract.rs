//! Copying tensors of any source into a new safetensors file.

use std::path::Path;

use vram_types::{CancelToken, DType, Priority, ReadRequest, SourceError, SourceErrorKind, TensorMeta};
use vram_types::{WeightSource, WeightSourceExt};

use crate::convert;
use crate::write::SafetensorsWriter;

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 8 << 20;

/// How far an [`extract`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtractProgress<'a> {
    /// The tensor that is being copied.
    pub tensor: &'a str,
    /// Bytes written so far, of all tensors.
    pub bytes_done: u64,
    /// Bytes that will be written.
    pub bytes_total: u64,
}

/// Copies the tensors called `names`, in that order, from `source` into the new file `out`, floating-point tensors cast to
/// `dtype` if one is given. Returns the bytes of tensors written.
///
/// Memory is bounded: some 8 MiB, and as much again after a cast as its dtypes' ratio, whatever the tensors' size.
/// `progress` is told after each piece. `out` appears when it is complete, and may even be a file of the source.
///
/// # Errors
/// `NotFound` for a name that the source has not; `Unsupported` where there is no cast; the errors of the source and of
/// [`SafetensorsWriter`]; `Cancelled`. There is no file then.
pub fn extract(
    source: &dyn WeightSource,
    names: &[&str],
    dtype: Option<DType>,
    out: &Path,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(ExtractProgress<'_>),
) -> Result<u64, SourceError> {
    let mut tensors = Vec::with_capacity(names.len());
    for &name in names {
        let from = source.require(name)?.meta;
        let to = target(&from, dtype).map_err(|e| e.at_tensor(name))?;
        tensors.push((name, from, to));
    }
    let declared = tensors.iter().map(|(name, _, to)| (*name, to.clone()));
    let mut writer = SafetensorsWriter::create(out, declared, &[])?;
    let bytes_total = writer.remaining();
    let (mut read, mut cast) = (Vec::new(), Vec::new());
    for (name, from, to) in &tensors {
        let mut offset = 0;
        while offset < from.bytes() {
            // A multiple of 4 elements of every dtype, so that each piece can be cast alone.
            let piece = (from.bytes() - offset).min((PIECE_BYTES / 24 * 24) as u64);
            read.resize(piece as usize, 0);
            source.read_many(
                &mut [ReadRequest::tensor(name, offset, &mut read)],
                Priority::Urgent,
                cancel,
            )?;
            if from.dtype() == to.dtype() {
                writer.write(&read)?;
            } else {
                let elements = piece / u64::from(from.dtype().layout().block_bytes)
                    * u64::from(from.dtype().layout().block_elements);
                cast.resize(to.dtype().bytes_of(elements).unwrap_or(0) as usize, 0);
                convert::cast(&read, from.dtype(), &mut cast, to.dtype()).map_err(|e| {
                    SourceError::new(SourceErrorKind::Unsupported, e.to_string()).at_tensor(*name)
                })?;
                writer.write(&cast)?;
            }
            offset += piece;
            progress(ExtractProgress {
                tensor: name,
                bytes_done: bytes_total - writer.remaining(),
                bytes_total,
            });
        }
    }
    writer.finish()?;
    Ok(bytes_total)
}

/// Dtype and shape after the cast; only floating-point tensors are cast.
fn target(from: &TensorMeta, dtype: Option<DType>) -> Result<TensorMeta, SourceError> {
    let to = match dtype {
        Some(to) if from.dtype().is_float() => to,
        _ => from.dtype(),
    };
    if !convert::converts(from.dtype(), to) {
        let message = format!("there is no conversion from {} to {to}", from.dtype());
        return Err(SourceError::new(SourceErrorKind::Unsupported, message));
    }
    TensorMeta::new(to, from.shape().clone())
        .map_err(|e| SourceError::new(SourceErrorKind::Unsupported, e.to_string()).caused_by(e))
}
