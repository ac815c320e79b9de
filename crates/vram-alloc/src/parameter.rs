//! A tensor of a model.

use std::sync::atomic::{AtomicU64, Ordering};

use vram_types::TensorMeta;

use crate::{AllocError, Init, InitPolicy, ParamStorage};

/// The identity of a parameter. Tied parameters share it; otherwise it is unique in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(u64);

impl ParamId {
    fn unique() -> ParamId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ParamId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a parameter is for. This decides where its values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Learned; comes from the checkpoint.
    Weight,
    /// Not learned.
    Buffer(BufferKind),
}

impl Role {
    /// Whether the checkpoint is expected to have it.
    pub fn is_loaded(self) -> bool {
        matches!(self, Role::Weight | Role::Buffer(BufferKind::Persistent))
    }
}

/// Where the values of a buffer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferKind {
    /// From the checkpoint, like a weight.
    Persistent,
    /// From the model's own code, such as rotary frequencies. It has storage even inside
    /// [`skip_init`](crate::skip_init), and is never loaded and never offloaded. A checkpoint may
    /// still contain it.
    Computed,
    /// From nowhere: the checkpoint may have it, but the model does not use it.
    Ignored,
}

/// A tensor of a model: dtype, shape and role, and storage unless it is *meta*.
///
/// ```
/// use vram_alloc::{Init, Parameter, skip_init};
/// use vram_types::{DType, TensorMeta};
///
/// let meta = TensorMeta::new(DType::BF16, [4096, 4096])?;
/// let weight = skip_init(|| Parameter::new(meta, Init::linear(4096)))?;
/// assert!(weight.is_meta() && weight.meta().bytes() == 32 << 20);
/// // The head of a language model is often its table of embeddings: one parameter in two places.
/// assert_eq!(weight.tie().id(), weight.id());
/// // Outside `skip_init` it is allocated and initialised, as PyTorch would.
/// let bias = Parameter::new(TensorMeta::new(DType::F32, [8])?, Init::Zeros)?;
/// assert_eq!(bias.host().map(|values| values.bytes().len()), Some(32));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Parameter {
    id: ParamId,
    meta: TensorMeta,
    role: Role,
    host: Option<ParamStorage>,
}

impl Parameter {
    /// Creates a weight. The thread's current [`InitPolicy`] decides whether it is allocated and
    /// initialised, or meta.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`]; [`AllocError::Init`] if the dtype cannot have these initial
    /// values, under every policy.
    pub fn new(meta: TensorMeta, init: Init) -> Result<Parameter, AllocError> {
        Parameter::with_policy(meta, init, Role::Weight, InitPolicy::next())
    }

    /// Creates a buffer that the checkpoint has; otherwise like [`new`](Parameter::new).
    ///
    /// # Errors
    /// As [`new`](Parameter::new).
    pub fn persistent_buffer(meta: TensorMeta, init: Init) -> Result<Parameter, AllocError> {
        Parameter::with_policy(meta, init, Role::Buffer(BufferKind::Persistent), InitPolicy::next())
    }

    /// Creates a buffer that the model has computed. It is never meta.
    pub fn computed_buffer(value: ParamStorage) -> Parameter {
        let role = Role::Buffer(BufferKind::Computed);
        Parameter { id: ParamId::unique(), meta: value.meta().clone(), role, host: Some(value) }
    }

    /// Creates a buffer that stays meta even if the checkpoint has it.
    pub fn ignored_buffer(meta: TensorMeta) -> Parameter {
        Parameter { id: ParamId::unique(), meta, role: Role::Buffer(BufferKind::Ignored), host: None }
    }

    /// Creates a parameter under an explicit policy. The seed of `Allocate` belongs to this
    /// parameter alone.
    ///
    /// # Errors
    /// As [`new`](Parameter::new).
    pub fn with_policy(
        meta: TensorMeta,
        init: Init,
        role: Role,
        policy: InitPolicy,
    ) -> Result<Parameter, AllocError> {
        init.check(meta.dtype())?;
        let host = match policy {
            InitPolicy::Allocate { seed } => Some(init.tensor(&meta, seed)?),
            InitPolicy::Skip => None,
        };
        Ok(Parameter { id: ParamId::unique(), meta, role, host })
    }

    /// Returns the same parameter for a second place in the model, with the same identity and
    /// storage.
    ///
    /// [`load`](crate::load()) fills both from one tensor. [`set_host`](Parameter::set_host) sets
    /// only one of them.
    #[must_use]
    pub fn tie(&self) -> Parameter {
        Parameter { id: self.id, meta: self.meta.clone(), role: self.role, host: self.host.clone() }
    }

    /// The identity, shared by tied parameters.
    pub fn id(&self) -> ParamId {
        self.id
    }

    /// Dtype and shape. Loading may change the dtype.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// The role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it has no storage.
    pub fn is_meta(&self) -> bool {
        self.host.is_none()
    }

    /// The storage, unless it is meta.
    pub fn host(&self) -> Option<&ParamStorage> {
        self.host.as_ref()
    }

    /// Sets the storage. The parameter takes over its dtype.
    ///
    /// # Errors
    /// [`AllocError::Shape`] if the storage has another shape.
    pub fn set_host(&mut self, value: ParamStorage) -> Result<(), AllocError> {
        if value.meta().shape() != self.meta.shape() {
            return Err(AllocError::Shape {
                expected: self.meta.shape().clone(),
                actual: value.meta().shape().clone(),
            });
        }
        self.meta = value.meta().clone();
        self.host = Some(value);
        Ok(())
    }

    /// Makes it meta and returns its storage. A computed buffer keeps its storage, because it
    /// could not be loaded again.
    pub fn take_host(&mut self) -> Option<ParamStorage> {
        if self.role == Role::Buffer(BufferKind::Computed) {
            return None;
        }
        self.host.take()
    }
}
