//! Compiles CUDA C for the host with the system's C++ compiler. The libraries are cached by a hash
//! of all inputs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::scan;
use crate::kernel::SHIM;

/// The first line of an image, before the architecture.
const MAGIC: &str = "// cuda-standin image 1 ";
/// Like NVIDIA's compiler, these make no assumptions about aliasing and fuse products and sums. At
/// `-O2` the compiler vectorises only where it is cheap.
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-nostdinc",
    "-nostdinc++",
    "-w",
];

/// The target of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arch {
    /// Ten times the major number plus the minor one.
    pub(crate) number: i64,
    /// Whether it is code for one architecture (`sm_89`) or also for later ones (`compute_89`).
    pub(crate) real: bool,
}

/// A program as returned by `nvrtcGetCUBIN` and `nvrtcGetPTX` and accepted by `cuModuleLoadData`:
/// C++ without includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) arch: Arch,
    source: String,
}

/// How to translate, from the options of `nvrtcCompileProgram`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) arch: Arch,
    /// `NAME` or `NAME=VALUE`.
    pub(super) defines: Vec<String>,
    /// The `-std=` of the C++ compiler.
    pub(super) standard: String,
}

impl Arch {
    /// Parses `sm_89` or `compute_89`, with or without a final `a` or `f`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (real, digits) = match (text.strip_prefix("sm_"), text.strip_prefix("compute_")) {
            (Some(digits), _) => (true, digits),
            (_, Some(digits)) => (false, digits),
            _ => return None,
        };
        let number = digits.trim_end_matches(['a', 'f']).parse().ok()?;
        Some(Self { number, real })
    }

    /// Whether a device of this compute capability runs it. Code needs the same major number and
    /// at least the minor one; other images run on any later device.
    pub(crate) fn runs_on(self, major: i64, minor: i64) -> bool {
        let device = 10 * major + minor;
        self.number <= device && (!self.real || self.number / 10 == major)
    }

    fn name(self) -> String {
        format!("{}_{}", if self.real { "sm" } else { "compute" }, self.number)
    }
}

impl Image {
    /// Translates a source and compiles it, to find its errors.
    ///
    /// # Errors
    ///
    /// The compiler's log.
    pub(super) fn compile(source: &str, name: &str, options: &Options) -> Result<Self, String> {
        let mut flags = vec!["-E".to_owned(), format!("-std={}", options.standard), "-nostdinc".to_owned()];
        flags.extend(["__CUDACC__", "__CUDACC_RTC__"].map(|d| format!("-D{d}=1")));
        flags.push(format!("-D__CUDA_ARCH__={}", options.arch.number * 10));
        flags.extend(options.defines.iter().map(|d| format!("-D{d}")));
        flags.extend(["-x", "c++", "-"].map(str::to_owned));
        let preprocessed = run(Command::new("c++").args(&flags), &format!("#line 1 \"{name}\"\n{source}"))?;
        let unit = scan::rewrite(&preprocessed)?;
        let table: String = unit.kernels.iter().map(|k| format!("standin::entry<&{k}>(\"{k}\"), ")).collect();
        let text = format!(
            "{}\nextern \"C\" {{ extern __attribute__((visibility(\"default\"))) const standin::Entry standin_entries[]; }}\n\
             const standin::Entry standin_entries[] = {{ {table}{{}} }};\n",
            unit.text
        );
        let image = Self { arch: options.arch, source: text };
        image.build()?;
        Ok(image)
    }

    /// The image as text without zeros.
    pub(super) fn text(&self) -> String {
        format!("{MAGIC}{}\n{}", self.arch.name(), self.source)
    }

    /// Reads an image.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (arch, source) = text.strip_prefix(MAGIC)?.split_once('\n')?;
        Some(Self { arch: Arch::parse(arch)?, source: source.to_owned() })
    }

    /// The library of this image; compiles it unless it is cached.
    ///
    /// # Errors
    ///
    /// The compiler's log, or why a file could not be written.
    pub(crate) fn build(&self) -> Result<PathBuf, String> {
        let folder = folder();
        let text = format!("{SHIM}\n{}", self.source);
        let flags: Vec<&str> = FLAGS.iter().copied().chain(processor().iter().copied()).collect();
        let mut hash = Sha256::new();
        for part in [text.as_bytes(), flags.join(" ").as_bytes(), COMPILER.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let name: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
        let path = folder.join(format!("{name}.so"));
        if path.exists() {
            return Ok(path);
        }
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        // Use a temporary name until it is complete. A concurrent process replaces it with the
        // same contents.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let own = format!("{name}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let partial = folder.join(own);
        let mut command = Command::new("c++");
        command.args(&flags).arg("-o").arg(&partial).args(["-x", "c++", "-", "-lm"]);
        run(&mut command, &text)?;
        fs::rename(&partial, &path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }
}

/// The cache folder: `STANDIN_CACHE`, or a folder of this user in the system's temporary folder.
fn folder() -> PathBuf {
    let named = std::env::var_os("STANDIN_CACHE").map(PathBuf::from);
    // SAFETY: it has no preconditions.
    let user = unsafe { libc::getuid() };
    named.unwrap_or_else(|| std::env::temp_dir().join(format!("cuda-standin-{user}")))
}

/// Identifies the compiler, so that another compiler compiles again.
static COMPILER: LazyLock<String> =
    LazyLock::new(|| run(Command::new("c++").arg("--version"), "").unwrap_or_else(|log| log));

/// The instruction sets for fused multiply-add, if this processor has them.
fn processor() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return &["-mavx2", "-mfma"];
    }
    &[]
}

/// Runs a program on a text and returns its output.
fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let program = Path::new(command.get_program()).display().to_string();
    let failed = |e: std::io::Error| {
        format!("{program}: {e} (the stand-in compiles kernels with the system's C++ compiler)")
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let (output, _) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.map(|mut s| s.write_all(input.as_bytes())));
        let output = child.wait_with_output();
        // A compiler that stops reading prints its own reason.
        (output, writer.join())
    });
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_run_where_they_can() {
        let check = |text: &str, major, minor, expected| {
            assert_eq!(
                Arch::parse(text).unwrap().runs_on(major, minor),
                expected,
                "{text} on {major}.{minor}"
            );
        };
        check("sm_80", 8, 9, true);
        check("sm_90a", 9, 0, true);
        check("sm_89", 8, 6, false);
        check("sm_75", 8, 6, false);
        check("compute_75", 8, 6, true);
        check("compute_90", 8, 9, false);
        check("sm_120", 12, 0, true);
        assert_eq!(Arch::parse("sm80"), None);
    }

    #[test]
    fn images_are_read_as_they_are_written() {
        let image = Image { arch: Arch { number: 86, real: true }, source: "int a;\n".to_owned() };
        assert_eq!(Image::parse(&image.text()).unwrap(), image);
        assert!(Image::parse("ELF").is_none() && Image::parse(MAGIC).is_none());
    }
}
