//! A named tensor of a model.

use std::sync::atomic::{AtomicU64, Ordering};

use vram_types::TensorMeta;

use crate::{AllocError, HostTensor, Init, InitPolicy};

/// Identity of a parameter. Tied parameters share it; no other two in a process do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(u64);

impl ParamId {
    fn unique() -> ParamId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ParamId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a parameter is for, which decides who fills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Learnt; comes from the checkpoint.
    Weight,
    /// Not learnt.
    Buffer(BufferKind),
}

impl Role {
    /// Whether a checkpoint is expected to have it.
    pub fn is_loaded(self) -> bool {
        matches!(self, Role::Weight | Role::Buffer(BufferKind::Persistent))
    }
}

/// Where the bytes of a buffer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferKind {
    /// From the checkpoint, as a weight's.
    Persistent,
    /// From the model's own code, such as rotary frequencies: there even inside [`skip_init`](crate::skip_init), never
    /// loaded and never offloaded. A checkpoint may have it all the same.
    Computed,
    /// From nowhere: the checkpoint may have it, and nobody wants it.
    Ignored,
}

/// A tensor of a model: dtype, shape and role, and storage unless it is *meta*.
#[derive(Debug)]
pub struct Parameter {
    id: ParamId,
    meta: TensorMeta,
    role: Role,
    host: Option<HostTensor>,
}

impl Parameter {
    /// A weight: allocated and initialised, or meta, as the thread's current [`InitPolicy`] says.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`], and [`AllocError::Init`] if the dtype cannot be initialised so; the latter under
    /// every policy.
    pub fn new(meta: TensorMeta, init: Init) -> Result<Parameter, AllocError> {
        Parameter::with_policy(meta, init, Role::Weight, InitPolicy::next())
    }

    /// A buffer that the checkpoint has; otherwise as [`new`](Parameter::new).
    ///
    /// # Errors
    /// As [`new`](Parameter::new).
    pub fn persistent_buffer(meta: TensorMeta, init: Init) -> Result<Parameter, AllocError> {
        Parameter::with_policy(meta, init, Role::Buffer(BufferKind::Persistent), InitPolicy::next())
    }

    /// A buffer that the model has computed. It is never meta.
    pub fn computed_buffer(value: HostTensor) -> Parameter {
        let role = Role::Buffer(BufferKind::Computed);
        Parameter { id: ParamId::unique(), meta: value.meta().clone(), role, host: Some(value) }
    }

    /// A buffer that stays meta although the checkpoint may have it.
    pub fn ignored_buffer(meta: TensorMeta) -> Parameter {
        Parameter { id: ParamId::unique(), meta, role: Role::Buffer(BufferKind::Ignored), host: None }
    }

    /// A parameter under a policy given as a value. `Allocate`'s seed belongs to this parameter alone here.
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

    /// The same parameter for a second place in the model: same identity, same storage.
    ///
    /// [`load`](crate::load()) fills both from one tensor; [`set_host`](Parameter::set_host) sets one of them only.
    #[must_use]
    pub fn tie(&self) -> Parameter {
        Parameter { id: self.id, meta: self.meta.clone(), role: self.role, host: self.host.clone() }
    }

    /// Identity, shared with tied parameters.
    pub fn id(&self) -> ParamId {
        self.id
    }

    /// Dtype and shape. Loading may change the dtype.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// What it is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it has no storage.
    pub fn is_meta(&self) -> bool {
        self.host.is_none()
    }

    /// Its storage, unless it is meta.
    pub fn host(&self) -> Option<&HostTensor> {
        self.host.as_ref()
    }

    /// Gives it storage, whose dtype becomes its own.
    ///
    /// # Errors
    /// [`AllocError::Shape`] if the storage has another shape.
    pub fn set_host(&mut self, value: HostTensor) -> Result<(), AllocError> {
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

    /// Makes it meta and returns its storage. A computed buffer keeps it: nobody could load it again.
    pub fn take_host(&mut self) -> Option<HostTensor> {
        if self.role == Role::Buffer(BufferKind::Computed) {
            return None;
        }
        self.host.take()
    }
}
