//! NVRTC: compiles CUDA C for a card.

use std::ffi::{CString, c_char, c_int};
use std::ptr::{null, null_mut};

use cudarc::nvrtc::sys;

use super::probe::unavailable;
use crate::DeviceError;

/// A compilation target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Machine code for cards of this compute capability.
    Card(u32),
    /// Intermediate code for the newest capability that the compiler knows, for a newer card: the driver
    /// finishes it.
    Newest(u32),
}

impl Target {
    /// The target for a card.
    pub(super) fn of(capability: u32) -> Result<Target, DeviceError> {
        let known = architectures()?;
        let newest = known.iter().copied().max().unwrap_or(0);
        if known.contains(&capability) {
            Ok(Target::Card(capability))
        } else if capability > newest && newest > 0 {
            Ok(Target::Newest(newest))
        } else {
            let (major, minor) = version()?;
            Err(unavailable(format!(
                "the card is an sm_{capability}, and NVRTC {major}.{minor} compiles for {known:?}"
            )))
        }
    }

    /// The compiler's option.
    pub(super) fn option(self) -> String {
        match self {
            Target::Card(capability) => format!("--gpu-architecture=sm_{capability}"),
            Target::Newest(capability) => format!("--gpu-architecture=compute_{capability}"),
        }
    }
}

fn check(what: &'static str, code: sys::nvrtcResult) -> Result<(), DeviceError> {
    if code as u32 == 0 {
        return Ok(());
    }
    Err(DeviceError::Failed { what, reason: format!("{code:?} ({})", code as u32) })
}

/// The compiler's version.
pub(super) fn version() -> Result<(u32, u32), DeviceError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are valid out-parameters.
    check("nvrtcVersion", unsafe { sys::nvrtcVersion(&mut major, &mut minor) })?;
    Ok((u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0)))
}

/// The compute capabilities that it supports.
pub(super) fn architectures() -> Result<Vec<u32>, DeviceError> {
    let mut count = 0;
    // SAFETY: the count is a valid out-parameter.
    check("nvrtcGetNumSupportedArchs", unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) })?;
    let mut all = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: there is room for the count it reported.
    check("nvrtcGetSupportedArchs", unsafe { sys::nvrtcGetSupportedArchs(all.as_mut_ptr()) })?;
    Ok(all.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect())
}

/// A program of the compiler, destroyed on drop.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created and not destroyed before. An error has no one to go to.
        let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

/// Compiles a source.
///
/// # Errors
/// [`DeviceError::Failed`] with the compiler's log.
pub(super) fn compile(source: &str, options: &[String], target: Target) -> Result<Vec<u8>, DeviceError> {
    let text = |s: &str| {
        let what = "nvrtcCreateProgram";
        CString::new(s).map_err(|e| DeviceError::Failed { what, reason: e.to_string() })
    };
    let source = text(source)?;
    let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program = Program(null_mut());
    // SAFETY: the program is a valid out-parameter, the source ends with a zero, and there are no headers.
    check("nvrtcCreateProgram", unsafe {
        sys::nvrtcCreateProgram(&mut program.0, source.as_ptr(), null(), 0, null(), null())
    })?;
    // SAFETY: the program was created, and the count of options, which end with zeros, is right.
    let code = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as c_int, options.as_ptr()) };
    if let Err(DeviceError::Failed { what, reason }) = check("nvrtcCompileProgram", code) {
        let log =
            read(&program, ("nvrtcGetProgramLog", sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog))?;
        let log = String::from_utf8_lossy(&log);
        let reason = format!("{reason}: {}", log.trim_end_matches('\0').trim());
        return Err(DeviceError::Failed { what, reason });
    }
    match target {
        Target::Card(_) => read(&program, ("nvrtcGetCUBIN", sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)),
        Target::Newest(_) => read(&program, ("nvrtcGetPTX", sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)),
    }
}

type Size = unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult;
type Get = unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult;

/// An output of a program: reads its length, then the bytes.
fn read(program: &Program, (what, size, get): (&'static str, Size, Get)) -> Result<Vec<u8>, DeviceError> {
    let mut bytes = 0;
    // SAFETY: the program was created, and the size is a valid out-parameter.
    check(what, unsafe { size(program.0, &mut bytes) })?;
    let mut out = vec![0u8; bytes];
    // SAFETY: there is room for as many bytes as it reported.
    check(what, unsafe { get(program.0, out.as_mut_ptr().cast()) })?;
    Ok(out)
}
