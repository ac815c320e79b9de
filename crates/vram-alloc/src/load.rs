//! Loads the parameters of a model from a source.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use vram_types::cast::{can_cast, cast};
use vram_types::{
    CancelToken, DType, Located, Priority, ReadOptions, ReadRequest, StorageId, TensorMeta, WeightSource,
};

use crate::{
    AlignedBytes, AllocError, LoadReport, Mismatch, Module, ParamId, ParamStorage, Parameter, Path,
    VisitorMut, named_parameters, walk_mut,
};

/// Chooses a dtype from a parameter's name and its tensor in the checkpoint.
type DTypeOf = dyn Fn(&str, &TensorMeta) -> Option<DType> + Send + Sync;

/// The dtype of loaded parameters.
#[derive(Clone, Default)]
pub enum DTypePolicy {
    /// The dtype in the checkpoint.
    #[default]
    Checkpoint,
    /// This dtype for all floating-point tensors; others keep the checkpoint's.
    Floats(DType),
    /// The result of a function of the parameter's name and its tensor in the checkpoint; `None`
    /// keeps the checkpoint's dtype.
    PerParameter(Arc<DTypeOf>),
}

impl DTypePolicy {
    /// The dtype of one parameter.
    pub fn dtype(&self, name: &str, stored: &TensorMeta) -> DType {
        match self {
            DTypePolicy::Floats(to) if stored.dtype().is_float() => *to,
            DTypePolicy::PerParameter(policy) => policy(name, stored).unwrap_or(stored.dtype()),
            _ => stored.dtype(),
        }
    }
}

impl fmt::Debug for DTypePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DTypePolicy::Checkpoint => f.write_str("Checkpoint"),
            DTypePolicy::Floats(to) => write!(f, "Floats({to})"),
            DTypePolicy::PerParameter(_) => f.write_str("PerParameter(..)"),
        }
    }
}

/// Options of [`load`] and [`check`].
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Whether missing, unexpected or mismatched tensors are an error. Otherwise they are only
    /// reported, and the parameters concerned do not change.
    pub strict: bool,
    /// Dtype of the parameters.
    pub dtype: DTypePolicy,
    /// A prefix that the names in the checkpoint have and the names in the model lack, such as
    /// `"transformer."`. Tensors without it belong to other models and do not count as unexpected.
    pub prefix: String,
    /// Bytes requested from the source at a time, but at least one tensor. Limits the memory of
    /// tensors that wait for a cast.
    pub batch_bytes: u64,
    /// Cancels the loading.
    pub cancel: CancelToken,
}

impl Default for LoadOptions {
    /// Strict, in the checkpoint's dtypes, 256 MiB at a time.
    fn default() -> LoadOptions {
        LoadOptions {
            strict: true,
            dtype: DTypePolicy::Checkpoint,
            prefix: String::new(),
            batch_bytes: 256 << 20,
            cancel: CancelToken::new(),
        }
    }
}

/// Reads every weight and persistent buffer of a model from a source.
///
/// Tied parameters are read once, under whichever of their names the source has. Tensors that
/// share their storage in the source are also read once. Casts run on the current rayon pool.
///
/// # Errors
/// [`AllocError::Incompatible`] with all mismatches, if `strict`; [`AllocError::Source`] and
/// [`AllocError::OutOfMemory`]. On error the model is unchanged.
pub fn load(
    root: &mut dyn Module,
    source: &dyn WeightSource,
    options: &LoadOptions,
) -> Result<LoadReport, AllocError> {
    let Plan { report, reads } = plan(root, source, options)?;
    let mut values = HashMap::new();
    let mut rest = &reads[..];
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch_len(rest, options.batch_bytes));
        read_batch(batch, source, options, &mut values)?;
        rest = later;
    }
    let mut assign = Assign { values, result: Ok(()) };
    walk_mut(root, &mut assign);
    assign.result.map(|()| report)
}

/// Returns the report that [`load`] would return, from names, dtypes and shapes alone. Reads no
/// tensor.
///
/// # Errors
/// [`AllocError::Incompatible`], if `strict`.
pub fn check(
    root: &dyn Module,
    source: &dyn WeightSource,
    options: &LoadOptions,
) -> Result<LoadReport, AllocError> {
    plan(root, source, options).map(|plan| plan.report)
}

struct Plan {
    report: LoadReport,
    reads: Vec<Read>,
}

/// One tensor for one or more parameters.
struct Read {
    /// Name in the source.
    tensor: String,
    stored: TensorMeta,
    dtype: DType,
    parameters: Vec<ParamId>,
}

/// A parameter with all its names.
struct Wanted<'a> {
    parameter: &'a Parameter,
    names: Vec<String>,
}

fn plan(root: &dyn Module, source: &dyn WeightSource, options: &LoadOptions) -> Result<Plan, AllocError> {
    let wanted = distinct(root);
    let known: HashSet<&str> = wanted.iter().flat_map(|w| &w.names).map(String::as_str).collect();
    let mut report = LoadReport {
        unexpected: source
            .names()
            .filter(|name| name.strip_prefix(&*options.prefix).is_some_and(|name| !known.contains(name)))
            .map(str::to_owned)
            .collect(),
        ..LoadReport::default()
    };
    let mut reads: Vec<Read> = Vec::new();
    // Index in `reads` of a read of these bytes into this dtype.
    let mut by_storage: HashMap<(StorageId, TensorMeta, DType), usize> = HashMap::new();
    for Wanted { parameter, names } in &wanted {
        if !parameter.role().is_loaded() {
            continue;
        }
        let Some((name, tensor, located)) = find(names, source, &options.prefix) else {
            report.missing.extend(names.first().cloned());
            continue;
        };
        let Located { meta: stored, storage, .. } = located;
        let dtype = options.dtype.dtype(name, &stored);
        let shape_fits = stored.shape() == parameter.meta().shape();
        if !shape_fits || !can_cast(stored.dtype(), dtype) {
            report.mismatched.push(Mismatch {
                name: name.to_owned(),
                expected: parameter.meta().clone(),
                found: stored,
                no_cast_to: shape_fits.then_some(dtype),
            });
            continue;
        }
        report.parameters += names.len();
        let index = *by_storage.entry((storage, stored.clone(), dtype)).or_insert(reads.len());
        match reads.get_mut(index) {
            Some(read) => read.parameters.push(parameter.id()),
            None => {
                report.tensors += 1;
                report.bytes = report.bytes.saturating_add(stored.bytes());
                reads.push(Read { tensor, stored, dtype, parameters: vec![parameter.id()] });
            }
        }
    }
    if options.strict && !report.is_exact() {
        return Err(AllocError::Incompatible(Box::new(report)));
    }
    Ok(Plan { report, reads })
}

/// Every parameter once, in the order of definition, with all names of tied ones.
fn distinct(root: &dyn Module) -> Vec<Wanted<'_>> {
    let mut wanted: Vec<Wanted<'_>> = Vec::new();
    let mut index: HashMap<ParamId, usize> = HashMap::new();
    for (name, parameter) in named_parameters(root) {
        let i = *index.entry(parameter.id()).or_insert(wanted.len());
        match wanted.get_mut(i) {
            Some(w) => w.names.push(name),
            None => wanted.push(Wanted { parameter, names: vec![name] }),
        }
    }
    wanted
}

/// The first of a parameter's names that the source has: in the model, and in the source.
fn find<'n>(
    names: &'n [String],
    source: &dyn WeightSource,
    prefix: &str,
) -> Option<(&'n str, String, Located)> {
    names.iter().find_map(|name| {
        let tensor = format!("{prefix}{name}");
        source.locate(&tensor).map(|located| (name.as_str(), tensor, located))
    })
}

/// How many of the next reads to issue at a time.
fn batch_len(reads: &[Read], batch_bytes: u64) -> usize {
    let mut total = 0u64;
    let fit = reads.iter().take_while(|r| {
        total = total.saturating_add(r.stored.bytes());
        total <= batch_bytes
    });
    fit.count().max(1)
}

fn read_batch(
    batch: &[Read],
    source: &dyn WeightSource,
    options: &LoadOptions,
    values: &mut HashMap<ParamId, ParamStorage>,
) -> Result<(), AllocError> {
    let mut buffers =
        batch.iter().map(|r| AlignedBytes::zeroed(r.stored.bytes())).collect::<Result<Vec<_>, _>>()?;
    let mut requests: Vec<ReadRequest<'_>> = batch
        .iter()
        .zip(&mut buffers)
        .filter(|(read, _)| read.stored.bytes() > 0)
        .map(|(read, buffer)| ReadRequest::tensor(&read.tensor, 0, buffer.as_mut_slice()))
        .collect();
    let ahead = ReadOptions::default().with_priority(Priority::ReadAhead).with_cancel(&options.cancel);
    source.read_many(&mut requests, &ahead)?;
    drop(requests);
    for (read, buffer) in batch.iter().zip(buffers) {
        let value = converted(read, buffer)?;
        values.extend(read.parameters.iter().map(|&id| (id, value.clone())));
    }
    Ok(())
}

fn converted(read: &Read, stored: AlignedBytes) -> Result<ParamStorage, AllocError> {
    if read.stored.dtype() == read.dtype {
        return ParamStorage::new(read.stored.clone(), stored);
    }
    let meta = TensorMeta::new(read.dtype, read.stored.shape().clone())?;
    let mut bytes = AlignedBytes::zeroed(meta.bytes())?;
    cast(stored.as_slice(), read.stored.dtype(), bytes.as_mut_slice(), read.dtype)?;
    ParamStorage::new(meta, bytes)
}

struct Assign {
    values: HashMap<ParamId, ParamStorage>,
    result: Result<(), AllocError>,
}

impl<'a> VisitorMut<'a> for Assign {
    fn parameter(&mut self, _path: &Path, parameter: &'a mut Parameter) {
        if let Some(value) = self.values.get(&parameter.id()) {
            // The plan compared the shape of the first of several tied parameters; its clones have
            // the same.
            if let Err(e) = parameter.set_host(value.clone()) {
                self.result = Err(e);
            }
        }
    }
}
