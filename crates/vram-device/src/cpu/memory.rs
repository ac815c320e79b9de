//! Anonymous pages, huge where the system gives them.

use std::any::Any;
use std::fs;
use std::ptr::NonNull;

use memmap2::MmapMut;

use crate::{DeviceError, MemoryInfo, RawBuffer};

/// Alignment of every allocation in bytes.
pub(super) const PAGE: u64 = 4096;

const HUGE_PAGE: u64 = 2 << 20;

pub(super) struct Pages {
    bytes: u64,
    // Kept for its Drop; read and written through `base` alone.
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
            // Only a hint: without huge pages everything works, a little slower.
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

/// What the system has and could give, control groups respected.
pub(super) fn available() -> Result<MemoryInfo, DeviceError> {
    let unavailable =
        |reason: String| DeviceError::Unavailable { what: "the amount of free memory".into(), reason };
    let text = fs::read_to_string("/proc/meminfo").map_err(|e| unavailable(format!("/proc/meminfo: {e}")))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let missing = |name: &str| unavailable(format!("/proc/meminfo has no {name}"));
    let mut total = field("MemTotal").ok_or_else(|| missing("MemTotal"))?;
    let mut free = field("MemAvailable").ok_or_else(|| missing("MemAvailable"))?;
    for (limit, used) in cgroup_limits() {
        total = total.min(limit);
        free = free.min(limit.saturating_sub(used));
    }
    Ok(MemoryInfo { free, total })
}

/// Limit and use in bytes of every control group that this process is in, from its own up to the root.
fn cgroup_limits() -> Vec<(u64, u64)> {
    let Ok(own) = fs::read_to_string("/proc/self/cgroup") else { return Vec::new() };
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, limit, used) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max", "memory.current")
        } else if controllers.split(',').any(|c| c == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        let mut group = Some(std::path::Path::new(path.trim_start_matches('/')));
        while let Some(path) = group {
            let read = |file: &str| {
                fs::read_to_string(std::path::Path::new(root).join(path).join(file)).ok()?.trim().parse().ok()
            };
            // "max" is no number and sets no limit.
            if let (Some(limit), Some(used)) = (read(limit), read(used)) {
                found.push((limit, used));
            }
            group = path.parent();
        }
    }
    found
}
