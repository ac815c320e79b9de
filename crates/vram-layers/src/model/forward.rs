//! What a model's forward is written against: memory for activations, operations, and the weights of one
//! layer at a time.

use vram_alloc::{BufferKind, Parameter, Role};
use vram_device::ops::{self, Activations, Op};
use vram_device::{Budget, Kernels, View};
use vram_types::{DType, Shape, TensorMeta};

use crate::engine::{Lease, write_input};
use crate::error::Error;
use crate::model::binding::{Binding, Bindings};
use crate::model::run::{Run, scratch};
use crate::model::tensor::Tensor;
use crate::model::tile::{Kept, Tile};
use crate::spec::Split;

/// A forward in progress.
///
/// [`Managed::run`](crate::Managed::run) calls a model's code twice with one of these: first *dry*, then for
/// real. In the dry run tensors have shapes but no bytes. It checks every operation, adds up the memory that
/// is held at once, and records the order of the layers, so that the pass is admitted under the budget before
/// anything is read. A forward must therefore do the same both times: it may depend on shapes, never on
/// values. What it [downloads](Forward::download) in the dry run is zeros.
///
/// ```
/// # use std::sync::Arc;
/// # use vram_alloc::{module, skip_init};
/// # use vram_device::{Budget, Tier, cpu::Cpu};
/// # use vram_layers::layers::Linear;
/// use vram_layers::{Error, Forward, ModuleMap, Tensor, VramConfig, enable_vram_management};
/// # use vram_types::{DType, GeneratedSource, TensorMeta};
///
/// struct Mlp { up: Linear, down: Linear }
/// module! { Mlp { up, down } }
///
/// impl Mlp {
///     /// `[tokens, 8] -> [tokens, 8]`, with a residual.
///     fn forward(&self, fwd: &mut Forward<'_>, x: &Tensor) -> Result<Tensor, Error> {
///         let mut hidden = self.up.forward(fwd, x)?;
///         fwd.gelu(&mut hidden)?;
///         let mut y = self.down.forward(fwd, &hidden)?;
///         fwd.add(&mut y, x)?;
///         Ok(y)
///     }
/// }
///
/// # let metas = [("up.weight", [16, 8]), ("down.weight", [8, 16])];
/// # let metas = metas.map(|(name, shape)| (name, TensorMeta::new(DType::F32, shape).unwrap()));
/// # let source = Arc::new(GeneratedSource::new(metas, |_, _, bytes| bytes.fill(0)).unwrap());
/// let model = skip_init(|| -> Result<_, vram_alloc::AllocError> {
///     Ok(Mlp { up: Linear::new(8, 16, false, DType::F32)?, down: Linear::new(16, 8, false, DType::F32)? })
/// })?;
/// let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, 4096));
/// let cpu = Arc::new(Cpu::new(Default::default())?);
/// let model = enable_vram_management(model, source, cpu, &ModuleMap::standard(), config)?;
/// let input = [0; 3 * 8 * 4];
/// let output = model.run(|mlp, fwd| {
///     let x = fwd.input(&input, &TensorMeta::new(DType::F32, [3, 8])?)?;
///     let y = mlp.forward(fwd, &x)?;
///     fwd.download(&y)
/// })?;
/// assert_eq!(output.len(), input.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Forward<'p> {
    run: &'p mut (dyn Run + 'p),
    kernels: &'p dyn Kernels,
    dtype: DType,
    activations: Activations,
    bindings: &'p Bindings,
    host_budget: &'p Budget,
}

/// What all forwards of a model share.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'p> {
    pub(crate) kernels: &'p dyn Kernels,
    pub(crate) dtype: DType,
    pub(crate) activations: Activations,
    pub(crate) bindings: &'p Bindings,
    pub(crate) host_budget: &'p Budget,
}

impl<'p> Forward<'p> {
    pub(crate) fn new(run: &'p mut (dyn Run + 'p), of: Surroundings<'p>) -> Forward<'p> {
        let Surroundings { kernels, dtype, activations, bindings, host_budget } = of;
        Forward { run, kernels, dtype, activations, bindings, host_budget }
    }

    /// The compute dtype, which activations have unless stated otherwise.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether the inputs of products with quantised blocks are rounded to 8 bits.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Whether this is the dry run: shapes are real, bytes are not.
    pub fn is_dry(&self) -> bool {
        self.run.is_dry()
    }

    /// Memory for an activation in the compute dtype, with unspecified contents.
    ///
    /// # Errors
    /// [`Error::Device`] if the pass takes more memory than its dry run did.
    pub fn tensor(&mut self, shape: impl Into<Shape>) -> Result<Tensor, Error> {
        let meta = TensorMeta::new(self.dtype, shape)?;
        self.tensor_of(meta)
    }

    /// Memory for an activation of any dtype, with unspecified contents.
    ///
    /// # Errors
    /// See [`tensor`](Forward::tensor).
    pub fn tensor_of(&mut self, meta: TensorMeta) -> Result<Tensor, Error> {
        self.run.tensor(meta)
    }

    /// Runs an operation that needs no managed weights, with scratch memory of the pass. A dry run checks and
    /// counts it.
    ///
    /// # Errors
    /// [`Error::Device`] if its tensors do not fit together, or if the device does not support it; see also
    /// [`tensor`](Forward::tensor).
    pub fn run<'t>(&mut self, op: impl Into<Op<'t>>) -> Result<(), Error> {
        let op = op.into().checked()?;
        let mut scratch = scratch(self.run, self.kernels, op.op())?;
        self.run.issue(op, scratch.as_mut())
    }

    /// An input from host memory, cast to the compute dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] if `bytes` does not have the length that `meta` implies; see also
    /// [`tensor`](Forward::tensor).
    pub fn input(&mut self, bytes: &[u8], meta: &TensorMeta) -> Result<Tensor, Error> {
        let stored = self.upload(bytes, meta)?;
        if stored.dtype() == self.dtype { Ok(stored) } else { self.cast(&stored, self.dtype) }
    }

    /// An input from host memory in its own dtype, for operations that need that: a table of angles.
    ///
    /// # Errors
    /// See [`input`](Forward::input).
    pub fn upload(&mut self, bytes: &[u8], meta: &TensorMeta) -> Result<Tensor, Error> {
        if bytes.len() as u64 != meta.bytes() {
            return Err(Error::Shape(format!(
                "an input of {} {} has {} bytes instead of {}",
                meta.dtype(),
                meta.shape(),
                bytes.len(),
                meta.bytes()
            )));
        }
        let memory = self.tensor_of(meta.clone())?;
        if self.is_dry() {
            return Ok(memory);
        }
        let region = write_input(self.kernels, self.host_budget, memory.into_region(), bytes)?;
        Ok(Tensor::new(region, meta.clone()))
    }

    /// The bytes of a tensor, in host memory. Zeros in a dry run.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost.
    pub fn download(&mut self, tensor: &Tensor) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; tensor.meta().bytes() as usize];
        if !self.is_dry() {
            self.kernels.download(tensor.region(), 0, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Runs custom kernels that need no weights. A dry run neither runs nor counts them.
    ///
    /// # Errors
    /// Any error of `f`.
    pub fn kernel(&mut self, f: impl FnOnce(&dyn Kernels) -> Result<(), Error>) -> Result<(), Error> {
        if self.is_dry() { Ok(()) } else { f(self.kernels) }
    }

    /// Runs operations with the weights of the layer that `parameter` belongs to. `f` is called once for each
    /// tile of the weights, and calls [`Tile::run`]. In a dry run it is called once, for all rows, with
    /// weights that have no bytes.
    ///
    /// # Errors
    /// Any error of `f`; [`Error::Model`] for a parameter that is not managed; any error of a lease.
    pub fn run_with(
        &mut self,
        parameter: &Parameter,
        mut f: impl FnMut(&mut Tile<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let layer = self.binding(parameter)?.layer;
        let (kernels, bindings) = (self.kernels, self.bindings);
        let mut kept = Kept::default();
        self.run.with_layer(layer, &mut |run, lease| {
            kept.next_tile();
            f(&mut Tile { run, kernels, bindings, layer, lease, kept: &mut kept })
        })
    }

    /// Runs custom kernels with the weights of the layer that `parameter` belongs to, once for each tile. A
    /// dry run only records that the layer is used.
    ///
    /// # Errors
    /// See [`run_with`](Forward::run_with).
    pub fn with_weights(
        &mut self,
        parameter: &Parameter,
        mut f: impl FnMut(&dyn Kernels, &Lease) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let kernels = self.kernels;
        self.run_with(parameter, |tile| tile.lease().map_or(Ok(()), |lease| f(kernels, lease)))
    }

    /// Index of a parameter among the tensors of its lease.
    ///
    /// # Errors
    /// [`Error::Model`] for a parameter that is not managed.
    pub fn index(&self, parameter: &Parameter) -> Result<usize, Error> {
        Ok(self.binding(parameter)?.index)
    }

    /// Rows `ids` of a table, cast to the compute dtype. If the table is not on the device, only these rows
    /// are read.
    ///
    /// # Errors
    /// [`Error::Shape`] for a row that does not exist, [`Error::Source`] if the rows cannot be read.
    pub fn gather(&mut self, table: &Parameter, ids: &[u32]) -> Result<Tensor, Error> {
        let Binding { layer, index, split, encoding } = self.binding(table)?;
        if split != Split::Gather {
            return Err(Error::Model(format!("rows cannot be gathered from layer {}", layer.0)));
        }
        let shape = table.meta().shape().with_first(ids.len());
        let mut y = self.tensor(shape.clone())?;
        if self.run.is_resident(layer) {
            self.run_with(table, |tile| tile.run(ops::Gather::new(tile.tensor(table)?, ids, y.view_mut())))?;
            return Ok(y);
        }
        if let Some(rows) = self.run.gather(layer, index, ids, encoding.bytes(&shape)?)? {
            self.run(ops::Cast::new(View::encoded(&rows, 0, shape, encoding)?, y.view_mut()))?;
        }
        Ok(y)
    }

    /// A small parameter or a buffer of the model as an activation in the compute dtype: a scale, a table of
    /// angles.
    ///
    /// # Errors
    /// [`Error::Model`] for a parameter that is neither managed nor a computed buffer, or that comes in
    /// tiles.
    pub fn parameter(&mut self, parameter: &Parameter) -> Result<Tensor, Error> {
        if parameter.role() == Role::Buffer(BufferKind::Computed)
            && let Some(host) = parameter.host()
        {
            return self.input(host.bytes(), parameter.meta());
        }
        let mut y = self.tensor(parameter.meta().shape().clone())?;
        self.run_with(parameter, |tile| {
            let stored = tile.tensor(parameter)?;
            if tile.rows().is_some_and(|rows| rows.len() != parameter.meta().shape().rows()) {
                return Err(Error::Model(
                    "a parameter that comes in tiles cannot be used as an activation".into(),
                ));
            }
            tile.run(ops::Cast::new(stored, y.view_mut()))
        })?;
        Ok(y)
    }

    /// Whether two parameters move together, so that one lease has both.
    pub(crate) fn together(&self, one: &Parameter, other: &Parameter) -> Result<bool, Error> {
        Ok(self.binding(one)?.layer == self.binding(other)?.layer)
    }

    fn binding(&self, parameter: &Parameter) -> Result<Binding, Error> {
        self.bindings.get(&parameter.id()).copied().ok_or_else(|| {
            Error::Model(format!("a parameter of shape {} is not under management", parameter.meta().shape()))
        })
    }
}

impl std::fmt::Debug for Forward<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward").field("dtype", &self.dtype).field("dry", &self.is_dry()).finish()
    }
}
