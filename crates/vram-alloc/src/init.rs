//! Whether new parameters are allocated, and their initial values.

use std::cell::Cell;

use rayon::prelude::*;
use vram_types::{DType, TensorMeta, cast};

use crate::{AlignedBytes, AllocError, ParamStorage};

/// Whether [`Parameter::new`](crate::Parameter::new) allocates.
///
/// Every thread has a current policy. It is [`Allocate`](InitPolicy::Allocate) with seed 0, unless
/// [`with_init`] sets another one. A thread that starts inside `with_init` does not inherit its
/// policy: pass it the value of [`InitPolicy::current`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitPolicy {
    /// Allocate and initialise; the values depend only on the seed.
    Allocate {
        /// Two models that are built in the same way with the same seed have the same values.
        /// (These differ from PyTorch's.)
        seed: u64,
    },
    /// Leave parameters meta.
    Skip,
}

impl InitPolicy {
    /// The current policy of this thread.
    pub fn current() -> InitPolicy {
        SCOPE.get().policy
    }

    /// The policy for the next parameter on this thread, with a seed that is unique in the scope.
    pub(crate) fn next() -> InitPolicy {
        let mut scope = SCOPE.get();
        let InitPolicy::Allocate { seed } = scope.policy else {
            return InitPolicy::Skip;
        };
        scope.made += 1;
        SCOPE.set(scope);
        InitPolicy::Allocate { seed: mix(seed ^ mix(scope.made)) }
    }
}

/// Runs `build`, in which every [`Parameter::new`](crate::Parameter::new) on this thread leaves
/// its parameter meta.
///
/// Restores the previous policy when `build` returns or panics.
pub fn skip_init<T>(build: impl FnOnce() -> T) -> T {
    with_init(InitPolicy::Skip, build)
}

/// Runs `build` under a policy. Calls can be nested.
///
/// ```
/// use vram_alloc::{InitPolicy, skip_init, with_init};
/// skip_init(|| {
///     assert_eq!(InitPolicy::current(), InitPolicy::Skip);
///     let policy = InitPolicy::Allocate { seed: 7 };
///     with_init(policy, || assert_eq!(InitPolicy::current(), policy));
/// });
/// assert_eq!(InitPolicy::current(), InitPolicy::Allocate { seed: 0 });
/// ```
pub fn with_init<T>(policy: InitPolicy, build: impl FnOnce() -> T) -> T {
    struct Restore(Scope);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCOPE.set(self.0);
        }
    }
    let _restore = Restore(SCOPE.replace(Scope { policy, made: 0 }));
    build()
}

/// The initial values of an allocated parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Zeros; possible for every dtype.
    Zeros,
    /// Ones.
    Ones,
    /// One value for all elements.
    Constant(f32),
    /// Uniform in `-bound..bound`.
    Uniform {
        /// Largest absolute value.
        bound: f32,
    },
    /// Normally distributed around zero.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// PyTorch's `kaiming_uniform_(a)`: uniform with bound `sqrt(6 / ((1 + a²) fan_in))`.
    KaimingUniform {
        /// Number of inputs of each output.
        fan_in: usize,
        /// Negative slope of the rectifier that follows.
        a: f32,
    },
}

impl Init {
    /// The weight and bias of PyTorch's `Linear`: `kaiming_uniform_(sqrt(5))`, which is uniform
    /// within `1 / sqrt(fan_in)`.
    pub fn linear(fan_in: usize) -> Init {
        Init::KaimingUniform { fan_in, a: 5f32.sqrt() }
    }

    /// The weight of PyTorch's `Embedding`.
    pub const EMBEDDING: Init = Init::Normal { std: 1.0 };

    /// Fails if a tensor of this dtype cannot have these values.
    pub(crate) fn check(self, dtype: DType) -> Result<(), AllocError> {
        if self == Init::Zeros || cast::can_cast(DType::F32, dtype) {
            return Ok(());
        }
        Err(AllocError::Init { dtype })
    }

    /// Creates a tensor with these values. Runs on the current rayon pool; the values do not
    /// depend on its size.
    pub(crate) fn tensor(self, meta: &TensorMeta, seed: u64) -> Result<ParamStorage, AllocError> {
        self.check(meta.dtype())?;
        let mut bytes = AlignedBytes::zeroed(meta.bytes())?;
        match self {
            Init::Zeros => {}
            Init::Ones => fill(bytes.as_mut_slice(), meta.dtype(), |_| 1.0),
            Init::Constant(value) => fill(bytes.as_mut_slice(), meta.dtype(), |_| value),
            Init::Uniform { bound } => {
                fill(bytes.as_mut_slice(), meta.dtype(), |i| uniform(seed, i, bound));
            }
            Init::KaimingUniform { fan_in, a } => {
                let bound = if fan_in == 0 { 0.0 } else { (6.0 / ((1.0 + a * a) * fan_in as f32)).sqrt() };
                fill(bytes.as_mut_slice(), meta.dtype(), |i| uniform(seed, i, bound));
            }
            Init::Normal { std } => fill(bytes.as_mut_slice(), meta.dtype(), |i| normal(seed, i) * std),
        }
        ParamStorage::new(meta.clone(), bytes)
    }
}

#[derive(Clone, Copy)]
struct Scope {
    policy: InitPolicy,
    /// How many parameters this scope has allocated.
    made: u64,
}

thread_local! {
    static SCOPE: Cell<Scope> = const { Cell::new(Scope { policy: InitPolicy::Allocate { seed: 0 }, made: 0 }) };
}

/// Elements per task.
const TASK_ELEMENTS: usize = 16 * 1024;

/// Each value depends only on its index, so the order of the tasks does not matter.
fn fill(dst: &mut [u8], dtype: DType, value: impl Fn(u64) -> f32 + Sync) {
    let element = (dtype.bits() / 8) as usize;
    dst.par_chunks_mut(TASK_ELEMENTS * element).enumerate().for_each(|(task, dst)| {
        let first = (task * TASK_ELEMENTS) as u64;
        let mut wide = vec![0; dst.len() / element * 4];
        for (i, out) in wide.chunks_exact_mut(4).enumerate() {
            out.copy_from_slice(&value(first + i as u64).to_le_bytes());
        }
        // `Init::check` has called `can_cast`, and both slices have the same number of elements.
        let done = cast::cast_serial(&wide, DType::F32, dst, dtype);
        debug_assert!(done.is_ok());
    });
}

/// The finaliser of splitmix64: a bijection whose outputs show no pattern for consecutive inputs.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn bits(seed: u64, i: u64) -> u64 {
    mix(seed ^ i.wrapping_mul(0xd134_2543_de82_ef95))
}

/// 24 random bits as a fraction in 0..1, the precision of an `f32`.
fn fraction(bits: u64) -> f32 {
    (bits >> 40) as f32 * (1.0 / (1u32 << 24) as f32)
}

fn uniform(seed: u64, i: u64, bound: f32) -> f32 {
    (2.0 * fraction(bits(seed, i)) - 1.0) * bound
}

/// The Box-Muller transform. Element 2k is the cosine and 2k + 1 the sine of the same draw.
fn normal(seed: u64, i: u64) -> f32 {
    let draw = bits(seed, i / 2);
    // In 0..=1 without zero, whose logarithm is infinite.
    let radius = (-2.0 * (1.0 - fraction(draw)).ln()).sqrt();
    let angle = std::f32::consts::TAU * fraction(draw << 24);
    radius * if i.is_multiple_of(2) { angle.cos() } else { angle.sin() }
}
