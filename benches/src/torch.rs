//! Reads one tensor of a PyTorch file: memory use and time.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vram_diskmap::DiskMap;

use crate::Options;
use crate::harness::{Subject, measure};
use crate::model::drop_cache;

const TENSOR: &str = "blocks.7.weight";
const LIMIT_KIB: u64 = 8 << 10;

/// Writes the file named by its argument, then loads the tensor once per line of input.
const PYTHON: &str = r#"
import os, sys, time, torch
path, name = sys.argv[1], sys.argv[2]
if not os.path.exists(path):
    torch.manual_seed(0)
    torch.save({f"blocks.{i}.weight": torch.randn(1024, 1024) for i in range(26)}, path + ".partial")
    os.rename(path + ".partial", path)
print(torch.__version__, flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    tensor = torch.load(path, mmap=True, weights_only=True)[name].clone()
    print(time.perf_counter() - start, flush=True)
    del tensor
"#;

/// The arguments of a process that reads one tensor, or nothing.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Child {
    path: Option<PathBuf>,
    name: Option<String>,
}

pub(crate) fn child(args: &Child) -> Result<()> {
    if let (Some(path), Some(name)) = (&args.path, &args.name) {
        black_box(DiskMap::open(path)?.get(name)?);
    }
    Ok(())
}

/// Reads one of 26 tensors of 4 MiB.
pub(crate) fn run(options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let path = &options.out.join("torch-104MB.pt");
    let mut python = match Python::start(path) {
        Ok(python) => python,
        Err(error) => {
            println!("skipped: torch-zip: {error:#} (VRAM_PYTHON names an interpreter with torch)");
            return Ok(());
        }
    };
    let empty = largest_resident_kib(&[])?;
    let arguments = [path.as_os_str(), TENSOR.as_ref()];
    println!("One tensor of {} ({} bytes)", path.display(), std::fs::metadata(path)?.len());
    for cold in [false, true] {
        if cold {
            drop_cache(path)?;
        }
        let kib = largest_resident_kib(&arguments)?;
        let (over, state) = (kib.saturating_sub(empty), if cold { "cold" } else { "cached" });
        println!("{state}: largest resident set {kib} KiB, {over} KiB over an empty process ({empty} KiB)");
        println!("reach: at most {LIMIT_KIB} KiB over an empty process");
        ensure!(over <= LIMIT_KIB, "it takes {over} KiB");
    }
    let title = format!("Open {} and read {TENSOR}, cached; PyTorch {}", path.display(), python.version);
    let subjects = vec![
        Subject::new("DiskMap", 4 << 20, || {
            black_box(DiskMap::open(path)?.get(TENSOR)?);
            Ok(())
        }),
        Subject::timed("torch.load(mmap=True), cloned", 4 << 20, || python.load()),
    ];
    measure(options, "torch-zip", &title, subjects, vec![])?.publish(options)
}

/// The largest resident set in KiB of a process that reads what it is told to. GNU time measures
/// only the child.
fn largest_resident_kib(arguments: &[&std::ffi::OsStr]) -> Result<u64> {
    let own = std::env::current_exe().context("own path")?;
    let run = Command::new("/usr/bin/time")
        .args(["-f", "%M"])
        .arg(own)
        .arg("read-one")
        .args(arguments)
        .output()
        .context("/usr/bin/time (install the package `time`)")?;
    let text = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success(), "reading one tensor failed: {text}");
    Ok(text.lines().last().context("no output of time")?.trim().parse()?)
}

/// PyTorch in a separate process that keeps running, so that its start is not measured.
struct Python {
    child: std::process::Child,
    answers: BufReader<std::process::ChildStdout>,
    version: String,
}

impl Python {
    fn start(path: &Path) -> Result<Python> {
        let python = std::env::var_os("VRAM_PYTHON").unwrap_or_else(|| "python3".into());
        let mut child = Command::new(&python)
            .args(["-c", PYTHON])
            .arg(path)
            .arg(TENSOR)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| Path::new(&python).display().to_string())?;
        let answers = BufReader::new(child.stdout.take().context("no output")?);
        let mut python = Python { child, answers, version: String::new() };
        python.version = python.answer()?;
        Ok(python)
    }

    fn load(&mut self) -> Result<Duration> {
        let questions = self.child.stdin.as_mut().context("no input")?;
        writeln!(questions)?;
        questions.flush()?;
        Ok(Duration::from_secs_f64(self.answer()?.parse()?))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            let mut why = String::new();
            if let Some(mut errors) = self.child.stderr.take() {
                std::io::Read::read_to_string(&mut errors, &mut why)?;
            }
            bail!("PyTorch: {}", why.lines().last().unwrap_or("it ended"));
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It exits when its input ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
