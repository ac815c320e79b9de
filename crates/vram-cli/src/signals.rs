//! Signals that end the command. It removes what it has not finished writing first.

#[cfg(unix)]
pub(crate) use unix::watch;

/// This system has no signals. What an ended command leaves behind, the next one removes.
#[cfg(not(unix))]
pub(crate) fn watch() -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
mod unix {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::{flag, low_level};

    /// From now on, a signal that ends the command removes its unfinished files first.
    pub(crate) fn watch() -> io::Result<()> {
        // A file that grows beyond the limit is then an error like a full disk.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        let ignored = ignored();
        let is_heeded = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
        let signals = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];
        let mut signals = Signals::new(signals.iter().filter(|signal| is_heeded(signal)))?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Held until the process has ended, so that no thread begins another file.
                let _held = vram_diskmap::abandon_unfinished();
                // Ends the process as the signal would have. If that fails, exit as a shell reports it.
                let _ = low_level::emulate_default_handler(signal);
                std::process::exit(128 + signal);
            }
        })?;
        Ok(())
    }

    /// The signals that whoever started us wants ignored, as `nohup` does: bit 0 is signal 1. None
    /// where the system does not say.
    fn ignored() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    }
}
