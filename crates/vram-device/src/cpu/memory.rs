//! Anonymous pages, huge if the system provides them.

use std::any::Any;
use std::ptr::NonNull;

use memmap2::MmapMut;

use crate::{DeviceError, RawBuffer};

/// Alignment of every allocation in bytes.
pub(super) const PAGE: u64 = 4096;

const HUGE_PAGE: u64 = 2 << 20;

pub(super) struct Pages {
    bytes: u64,
    // Held for its Drop; accessed only through `base`.
    _map: Option<MmapMut>,
    base: NonNull<u8>,
}

// SAFETY: the mapping is owned, and its bytes are reached only through `Region`s, which are exclusive.
unsafe impl Send for Pages {}
// SAFETY: as above; `Pages` itself never reads or writes them.
unsafe impl Sync for Pages {}

impl Pages {
    pub(super) fn new(bytes: u64) -> Result<Pages, DeviceError> {
        if bytes == 0 {
            return Ok(Pages { bytes, _map: None, base: NonNull::dangling() });
        }
        let oom = |reason: String| DeviceError::OutOfMemory { bytes, reason };
        let len = usize::try_from(bytes).map_err(|e| oom(e.to_string()))?;
        let mut map = MmapMut::map_anon(len).map_err(|e| oom(e.to_string()))?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE {
            // Only a hint: without huge pages everything works, slightly slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let base = NonNull::new(map.as_mut_ptr()).ok_or_else(|| oom("no address".into()))?;
        Ok(Pages { bytes, _map: Some(map), base })
    }
}

// SAFETY: the mapping does not move, is zeroed by the system, and is `bytes` long (a dangling pointer is valid for
// zero bytes); `Pages` never touches the bytes itself.
unsafe impl RawBuffer for Pages {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        Some(self.base)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
