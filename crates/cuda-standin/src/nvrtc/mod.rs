//! NVRTC: programs, their options, logs and images.

#![allow(non_snake_case, reason = "the names are NVIDIA's")]

mod compile;
mod scan;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::out::{put, text};
use crate::state;
pub(crate) use compile::Image;
use compile::{Arch, Options};

/// `nvrtcResult`.
const SUCCESS: u32 = 0;
const INVALID_INPUT: u32 = 3;
const INVALID_PROGRAM: u32 = 4;
const INVALID_OPTION: u32 = 5;
const COMPILATION: u32 = 6;
const INTERNAL_ERROR: u32 = 11;

/// The architectures that programs can be compiled for.
const ARCHS: [c_int; 13] = [50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 89, 90];
const LATER_ARCHS: [c_int; 3] = [100, 103, 120];

struct Program {
    source: String,
    name: String,
    log: String,
    image: Option<Image>,
}

#[derive(Default)]
struct Programs {
    all: HashMap<usize, Program>,
    last: usize,
}

static PROGRAMS: LazyLock<Mutex<Programs>> = LazyLock::new(Mutex::default);

type Answer = Result<(), u32>;

fn with<R>(body: impl FnOnce(&mut Programs) -> R) -> R {
    body(&mut PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn guarded(body: impl FnOnce() -> Answer) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(result)) => result,
        Err(_) => INTERNAL_ERROR,
    }
}

fn program<R>(handle: usize, body: impl FnOnce(&mut Program) -> Result<R, u32>) -> Result<R, u32> {
    with(|programs| body(programs.all.get_mut(&handle).ok_or(INVALID_PROGRAM)?))
}

fn invalid<E>(_: E) -> u32 {
    INVALID_INPUT
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetErrorString(result: u32) -> *const c_char {
    let text = match result {
        SUCCESS => c"NVRTC_SUCCESS",
        INVALID_INPUT => c"NVRTC_ERROR_INVALID_INPUT",
        INVALID_PROGRAM => c"NVRTC_ERROR_INVALID_PROGRAM",
        INVALID_OPTION => c"NVRTC_ERROR_INVALID_OPTION",
        COMPILATION => c"NVRTC_ERROR_COMPILATION",
        INTERNAL_ERROR => c"NVRTC_ERROR_INTERNAL_ERROR",
        _ => c"NVRTC_ERROR unknown",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> u32 {
    guarded(|| {
        let version = state::lock().config.nvrtc_version as c_int;
        put(major, version / 1000).map_err(invalid)?;
        put(minor, version % 1000 / 10).map_err(invalid)
    })
}

/// The architectures that the simulated version knows.
fn archs() -> Vec<c_int> {
    let version = state::lock().config.nvrtc_version;
    let later = LATER_ARCHS.iter().filter(|_| version >= 12_080);
    // CUDA 13 does not compile for architectures before Turing.
    ARCHS.iter().filter(|a| version < 13_000 || **a >= 75).chain(later).copied().collect()
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> u32 {
    guarded(|| put(count, archs().len() as c_int).map_err(invalid))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetSupportedArchs(numbers: *mut c_int) -> u32 {
    guarded(|| {
        for (i, arch) in archs().into_iter().enumerate() {
            put(numbers.wrapping_add(i), arch).map_err(invalid)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcCreateProgram(
    out: *mut usize,
    source: *const c_char,
    name: *const c_char,
    headers: c_int,
    _contents: *const *const c_char,
    _names: *const *const c_char,
) -> u32 {
    guarded(|| {
        // Headers from the caller are not supported.
        if headers != 0 {
            return Err(INVALID_INPUT);
        }
        let source = text(source).map_err(invalid)?;
        let name = if name.is_null() { "default_program".to_owned() } else { text(name).map_err(invalid)? };
        let handle = with(|programs| {
            programs.last += 16;
            programs.all.insert(programs.last, Program { source, name, log: String::new(), image: None });
            programs.last
        });
        put(out, handle).map_err(invalid)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcDestroyProgram(handle: *mut usize) -> u32 {
    guarded(|| {
        if handle.is_null() {
            return Err(INVALID_INPUT);
        }
        // SAFETY: not null, and the caller's variable that holds the handle.
        let number = unsafe { handle.read() };
        with(|programs| programs.all.remove(&number)).ok_or(INVALID_PROGRAM)?;
        put(handle, 0).map_err(invalid)
    })
}

/// Compiles outside the lock, so that programs can be compiled in parallel.
#[unsafe(no_mangle)]
extern "C" fn nvrtcCompileProgram(handle: usize, count: c_int, options: *const *const c_char) -> u32 {
    guarded(|| {
        let mut all = Vec::new();
        for i in 0..usize::try_from(count).map_err(invalid)? {
            // SAFETY: the caller passes `count` strings.
            all.push(text(unsafe { *options.add(i) }).map_err(invalid)?);
        }
        let (source, name) = program(handle, |p| Ok((p.source.clone(), p.name.clone())))?;
        let (log, image, answer) = match parse(&all) {
            Err(message) => (message, None, Err(INVALID_OPTION)),
            Ok(options) => match Image::compile(&source, &name, &options) {
                Err(log) => (log, None, Err(COMPILATION)),
                Ok(image) => (String::new(), Some(image), Ok(())),
            },
        };
        program(handle, |p| {
            (p.log, p.image) = (log.replace('\0', " "), image);
            Ok(())
        })?;
        answer
    })
}

/// Reads options as NVRTC does: a value follows its name after `=` or as the next option.
fn parse(options: &[String]) -> Result<Options, String> {
    let mut found =
        Options { arch: Arch { number: 75, real: false }, defines: Vec::new(), standard: "c++17".to_owned() };
    let known = archs();
    let mut rest = options.iter().map(String::as_str);
    while let Some(option) = rest.next() {
        let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
        match name {
            "--gpu-architecture" | "-arch" => {
                let value = value.or_else(|| rest.next()).unwrap_or_default();
                let arch = Arch::parse(value).filter(|a| known.iter().any(|k| i64::from(*k) == a.number));
                found.arch = arch.ok_or_else(|| format!("invalid value '{value}' for {name}"))?;
            }
            "--std" | "-std" => {
                let value = value.unwrap_or_default();
                if !["c++11", "c++14", "c++17"].contains(&value) {
                    return Err(format!("invalid value '{value}' for {name}"));
                }
                // The shim needs C++17.
                value.clone_into(&mut found.standard);
            }
            "--define-macro" | "-D" => {
                let define =
                    option.strip_prefix(name).and_then(|o| o.strip_prefix('=')).or_else(|| rest.next());
                found.defines.push(define.ok_or("-D without a name")?.to_owned());
            }
            // These affect speed, rounding or messages.
            "--fmad"
            | "-fmad"
            | "--ftz"
            | "-ftz"
            | "--prec-div"
            | "--prec-sqrt"
            | "--use_fast_math"
            | "-use_fast_math"
            | "--restrict"
            | "--extra-device-vectorization"
            | "-default-device"
            | "--device-as-default-execution-space"
            | "--generate-line-info"
            | "-lineinfo"
            | "-w"
            | "--disable-warnings" => {}
            name if name.starts_with("-D") => found.defines.push(option[2..].to_owned()),
            _ => return Err(format!("unrecognized option {option} found")),
        }
    }
    Ok(found)
}

fn image(handle: usize, real: bool) -> Result<String, u32> {
    program(handle, |p| {
        let image = p.image.as_ref().ok_or(INVALID_PROGRAM)?;
        // There is no code for a virtual architecture.
        if real && !image.arch.real { Err(INVALID_PROGRAM) } else { Ok(image.text()) }
    })
}

/// Writes a text and the final zero.
fn give(to: *mut c_char, text: &str) -> Answer {
    if to.is_null() {
        return Err(INVALID_INPUT);
    }
    // SAFETY: the caller has room for the size that was returned, which is this.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLogSize(handle: usize, size: *mut usize) -> u32 {
    guarded(|| put(size, program(handle, |p| Ok(p.log.len() + 1))?).map_err(invalid))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLog(handle: usize, log: *mut c_char) -> u32 {
    guarded(|| give(log, &program(handle, |p| Ok(p.log.clone()))?))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetPTXSize(handle: usize, size: *mut usize) -> u32 {
    guarded(|| put(size, image(handle, false)?.len() + 1).map_err(invalid))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetPTX(handle: usize, ptx: *mut c_char) -> u32 {
    guarded(|| give(ptx, &image(handle, false)?))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBINSize(handle: usize, size: *mut usize) -> u32 {
    guarded(|| put(size, image(handle, true)?.len() + 1).map_err(invalid))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBIN(handle: usize, cubin: *mut c_char) -> u32 {
    guarded(|| give(cubin, &image(handle, true)?))
}

/// The image behind a pointer, as passed to `cuModuleLoadData`.
///
/// # Safety
///
/// It points to an image, or to other text that ends with a zero.
pub(crate) unsafe fn image_at(at: *const c_char) -> Option<Image> {
    if at.is_null() {
        return None;
    }
    // SAFETY: the caller promises the zero.
    Image::parse(unsafe { CStr::from_ptr(at) }.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[&str]) -> Result<Options, String> {
        parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_those_of_nvrtc() {
        let found = check(&[
            "--gpu-architecture=sm_86",
            "-DA=1",
            "-D",
            "B",
            "--define-macro=C=a=b",
            "--std=c++17",
            "--fmad=true",
        ])
        .unwrap();
        assert_eq!(found.arch, Arch { number: 86, real: true });
        assert_eq!(found.defines, ["A=1", "B", "C=a=b"]);
        assert_eq!(check(&["-arch", "compute_75"]).unwrap().arch, Arch { number: 75, real: false });
        for wrong in
            ["--gpu-architecture=sm_11", "--gpu-architecture", "--std=c++98", "--no-such-option", "-D"]
        {
            assert!(check(&[wrong]).is_err(), "{wrong}");
        }
    }
}
