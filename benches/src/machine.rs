//! Describes the machine that the results come from.

use std::fs;

use anyhow::{Context, Result};
use memmap2::MmapMut;
use serde::Serialize;

/// A description of the machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    threads: usize,
    memory_bytes: Option<u64>,
    system: String,
}

impl Machine {
    /// This machine.
    pub(crate) fn here() -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let after_colon = |text: &str, key: &str| {
            let line = text.lines().find(|l| l.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpu = read("/proc/cpuinfo");
        let number = |key| after_colon(&cpu, key).unwrap_or_else(|| "?".to_owned());
        let name = after_colon(&cpu, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let memory = after_colon(&read("/proc/meminfo"), "MemTotal");
        Machine {
            cpu: format!("{name} (family {}, model {})", number("cpu family"), number("model\t")),
            threads: threads(),
            memory_bytes: memory
                .and_then(|m| m.split_whitespace().next()?.parse::<u64>().ok())
                .map(|kib| kib * 1024),
            system: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
        }
    }
}

/// How many threads run at once.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory that starts on a huge-page boundary and uses huge pages if possible, which is the
/// fastest target for a disk and for a copy.
pub(crate) struct Huge {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl Huge {
    pub(crate) fn new(len: usize) -> Result<Huge> {
        const HUGE_PAGE: usize = 2 << 20;
        let room = len.next_multiple_of(HUGE_PAGE) + HUGE_PAGE;
        let map = MmapMut::map_anon(room).with_context(|| format!("{room} bytes of memory"))?;
        // Only a hint: without huge pages the memory is slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        Ok(Huge { map, start, len })
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}
