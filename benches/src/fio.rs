//! Direct reads of a file with `fio`, if it is installed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::Subject;
use crate::model::drop_cache;

/// Ways to keep several reads in flight. The fastest differs from disk to disk.
const WAYS: [(&str, &[&str]); 2] = [
    ("libaio, 8 of 1 MiB", &["--ioengine=libaio", "--iodepth=8", "--bs=1M"]),
    (
        "4 threads of 1 MiB",
        &["--ioengine=psync", "--numjobs=4", "--thread", "--bs=1M", "--offset_increment=25%", "--size=25%"],
    ),
];

/// One subject per way, or why there are none.
pub(crate) fn subjects(path: &Path) -> Result<Vec<Subject<'_>>, String> {
    if !Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Err("fio is not installed".to_owned());
    }
    let bytes = path.metadata().map_err(|e| e.to_string())?.len();
    let subject = |&(name, way): &(&str, &'static [&str])| {
        Subject::timed(format!("fio, {name}"), bytes, move || {
            drop_cache(path)?;
            read(path, bytes, way)
        })
    };
    Ok(WAYS.iter().map(subject).collect())
}

/// The time that fio reports for reading the whole file, without its start-up.
fn read(path: &Path, bytes: u64, way: &[&str]) -> Result<Duration> {
    let output = Command::new("fio")
        .args(["--name=read", "--rw=read", "--direct=1", "--readonly", "--group_reporting"])
        .arg("--output-format=json")
        .arg(format!("--filename={}", path.display()))
        .args(way)
        .output()
        .context("fio")?;
    ensure!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).context("cannot parse the output of fio")?;
    let read = &report["jobs"][0]["read"];
    let number = |name: &str| read[name].as_f64().with_context(|| format!("fio does not report {name}"));
    ensure!(number("io_bytes")? >= 0.99 * bytes as f64, "fio has not read the whole file");
    Ok(Duration::from_secs_f64(bytes as f64 / number("bw_bytes")?))
}
