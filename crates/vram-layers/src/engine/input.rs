//! Writes the caller's bytes to the workspace.

use vram_device::{Budget, Device, DeviceError, Lifetime, Memory, Region, Stage};

use super::guard::{kernels_after_input, settle_staging, workspace_after_kernels};
use crate::error::Error;

/// Size of the pieces in which inputs are copied to a device whose memory is not visible to the host, in
/// bytes.
const PIECE: usize = 1 << 20;

/// Writes bytes to a region of the same size in a pass's workspace, through staging if the host does not see
/// the device's memory. Kernels issued afterwards find them there.
pub(crate) fn write_input(
    device: &dyn Device,
    host_budget: &Budget,
    mut region: Region,
    bytes: &[u8],
) -> Result<Region, Error> {
    workspace_after_kernels(device)?;
    if device.info().topology.memory == Memory::Shared {
        if let Some(to) = region.host_mut() {
            to.copy_from_slice(bytes);
        }
        return Ok(region);
    }
    let part = region.into_parts(&[])?.pop();
    let mut part = part.ok_or_else(without_memory)?;
    // One is filled while the other is copied; pinning more takes longer than copying. Both are allocated
    // before the first copy, so that no copy is in flight if there is no room.
    let mut stages = Vec::with_capacity(2);
    for piece in bytes.chunks(PIECE).take(2) {
        let room = host_budget.reserve(Lifetime::Pass, piece.len() as u64).map_err(DeviceError::from)?;
        stages.push(Stage::new(device.stage(room)?));
    }
    for (i, piece) in bytes.chunks(PIECE).enumerate() {
        let stage = &mut stages[i % 2];
        settle_staging(stage, device)?;
        let fill = |dst: &mut [u8]| -> Result<(), DeviceError> {
            dst[..piece.len()].copy_from_slice(piece);
            Ok(())
        };
        stage.upload(device, 0..piece.len() as u64, (&mut part, (i * PIECE) as u64), fill)?;
    }
    for stage in &mut stages {
        kernels_after_input(device, stage)?;
    }
    part.finish().ok_or_else(without_memory)
}

fn without_memory() -> Error {
    Error::Shape("an input without memory".into())
}
