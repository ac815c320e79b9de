//! Which instructions the kernels may use.

use std::fmt;
use std::sync::OnceLock;

use super::error::KernelError;

/// The environment variable that forces a path: `amx`, `avx512`, `avx2` or `portable`.
pub const ISA_VARIABLE: &str = "VRAM_CPU_ISA";

/// The instruction-set paths, fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IsaKind {
    /// Tiles for bf16 arithmetic (`tdpbf16ps`), AVX-512 for the rest.
    Amx,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// Plain Rust, whatever the target makes of it.
    Portable,
}

impl IsaKind {
    /// Every path, fastest first.
    pub const ALL: [IsaKind; 4] = [IsaKind::Amx, IsaKind::Avx512, IsaKind::Avx2, IsaKind::Portable];

    /// The name that [`ISA_VARIABLE`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            IsaKind::Amx => "amx",
            IsaKind::Avx512 => "avx512",
            IsaKind::Avx2 => "avx2",
            IsaKind::Portable => "portable",
        }
    }

    /// Why this machine does not support the path; `None` if it does.
    fn missing(self) -> Option<String> {
        match self {
            IsaKind::Portable => None,
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => x86::lacks(&[
                ("avx2", is_x86_feature_detected!("avx2")),
                ("fma", is_x86_feature_detected!("fma")),
                ("f16c", is_x86_feature_detected!("f16c")),
            ]),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => IsaKind::Avx2.missing().or_else(|| {
                x86::lacks(&[
                    ("avx512f", is_x86_feature_detected!("avx512f")),
                    ("avx512bw", is_x86_feature_detected!("avx512bw")),
                    ("avx512dq", is_x86_feature_detected!("avx512dq")),
                    ("avx512vl", is_x86_feature_detected!("avx512vl")),
                ])
            }),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Amx => IsaKind::Avx512.missing().or_else(x86::amx_missing),
            #[cfg(not(target_arch = "x86_64"))]
            _ => Some("this is not an x86-64 processor".to_owned()),
        }
    }
}

impl fmt::Display for IsaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An instruction-set path that this machine supports: the holder may use its instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(IsaKind);

impl Isa {
    /// The path that [`ISA_VARIABLE`] names, or else the fastest one. The environment is read each time, the
    /// processor once.
    ///
    /// # Errors
    /// [`KernelError::Isa`] if the variable holds an unknown name or a path that this machine lacks.
    pub fn detect() -> Result<Isa, KernelError> {
        match std::env::var_os(ISA_VARIABLE) {
            None => Ok(Isa::best()),
            Some(value) if value.is_empty() => Ok(Isa::best()),
            Some(value) => Isa::from_name(&value.to_string_lossy()),
        }
    }

    /// The path of that name.
    ///
    /// # Errors
    /// [`KernelError::Isa`] if the name is unknown or this machine lacks the path.
    pub fn from_name(name: &str) -> Result<Isa, KernelError> {
        match IsaKind::ALL.into_iter().find(|k| k.name().eq_ignore_ascii_case(name.trim())) {
            Some(kind) => Isa::new(kind),
            None => Err(KernelError::Isa {
                asked: name.to_owned(),
                reason: "no such path; known are amx, avx512, avx2 and portable".to_owned(),
            }),
        }
    }

    /// The path, if this machine supports it.
    ///
    /// # Errors
    /// [`KernelError::Isa`] with the reason if it does not.
    pub fn new(kind: IsaKind) -> Result<Isa, KernelError> {
        static REASONS: OnceLock<[Option<String>; 4]> = OnceLock::new();
        let reasons = REASONS.get_or_init(|| IsaKind::ALL.map(IsaKind::missing));
        match &reasons[kind as usize] {
            None => Ok(Isa(kind)),
            Some(reason) => Err(KernelError::Isa { asked: kind.name().to_owned(), reason: reason.clone() }),
        }
    }

    /// The fastest path of this machine.
    pub fn best() -> Isa {
        Isa::available().next().unwrap_or(Isa(IsaKind::Portable))
    }

    /// Every path of this machine, fastest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        IsaKind::ALL.into_iter().filter_map(|k| Isa::new(k).ok())
    }

    /// Which path it is.
    pub const fn kind(self) -> IsaKind {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.0)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    pub(super) fn lacks(features: &[(&str, bool)]) -> Option<String> {
        features.iter().find(|f| !f.1).map(|f| format!("the processor lacks {}", f.0))
    }

    #[cfg(target_os = "linux")]
    pub(super) fn amx_missing() -> Option<String> {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        // Leaf 7, EDX: bit 22 amx-bf16, bit 24 amx-tile.
        #[allow(unused_unsafe)] // safe from Rust 1.94 on
        // SAFETY: every x86-64 processor has CPUID, and leaf 7 is read only where leaf 0 says that it exists.
        let edx = unsafe { if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx } };
        if let Some(reason) = lacks(&[("amx-tile", edx >> 24 & 1 == 1), ("amx-bf16", edx >> 22 & 1 == 1)]) {
            return Some(reason);
        }
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XTILEDATA: libc::c_long = 18;
        // SAFETY: this call takes two integers, touches no memory of ours, and only adds a permission to the process.
        let rc = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) };
        if rc != 0 {
            let error = std::io::Error::last_os_error();
            return Some(format!("the kernel does not permit tile data: {error}"));
        }
        None
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn amx_missing() -> Option<String> {
        Some("tile permission is only known for Linux".to_owned())
    }
}

/// Work that is compiled once per instruction set. `run` and everything it calls must be `#[inline(always)]`:
/// it is then compiled with the features of the function it is inlined into.
pub(crate) trait Body {
    /// Does the work; `FMA` says whether `mul_add` is one instruction here.
    fn run<const FMA: bool>(self);
}

/// Runs `body` compiled for `isa`.
pub(crate) fn dispatch<B: Body>(isa: Isa, body: B) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn avx512<B: Body>(body: B) {
            body.run::<true>();
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<B: Body>(body: B) {
            body.run::<true>();
        }
        match isa.kind() {
            // SAFETY: an `Isa` of these kinds exists only where `IsaKind::missing` found all these features.
            IsaKind::Amx | IsaKind::Avx512 => return unsafe { avx512(body) },
            // SAFETY: as above.
            IsaKind::Avx2 => return unsafe { avx2(body) },
            IsaKind::Portable => {}
        }
    }
    let _ = isa;
    body.run::<false>();
}
