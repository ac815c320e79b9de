//! What a figure was measured on.

use std::fs;

use serde::Serialize;

/// The machine, in words and numbers.
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

/// Threads that run at once.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
