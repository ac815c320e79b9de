//! A source whose tensors are made of another's.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use vram_types::{
    FileId, FileRange, HostBytes, Located, ReadOptions, ReadRequest, ReadTarget, SourceError,
    SourceErrorKind, WeightSource, WeightSourceExt,
};

use super::compile::{State, compile};
use super::error::{ConversionError, ConversionErrorKind};
use super::expr::{self, Expr};
use super::gather::Gather;
use super::identity::{Identities, SourceTensor, runs};
use super::layout::Unit;
use super::rules::Conversion;
use crate::catalog::map::DiskMap;
use crate::read::host::HostTensor;

/// The tensors that a [`Conversion`] makes of a source's, read when they are asked for.
///
/// It is a [`WeightSource`] itself: a tensor whose bytes lie in one range of a file has that range
/// in [`locate`](WeightSource::locate), so that it is streamed and mapped like any other; tensors
/// that are put together of several ranges have these; one that is gathered or cast has none and
/// is read by its name, any range of its bytes. Errors of reading name the tensor of the source.
pub struct Converted<S = DiskMap> {
    source: S,
    sources: Vec<SourceTensor>,
    /// Roughly in the order of the sources' bytes.
    tensors: Vec<Tensor>,
    numbers: HashMap<Box<str>, usize>,
}

struct Tensor {
    name: Box<str>,
    expr: Arc<Expr>,
    located: Located,
}

impl DiskMap {
    /// Compiles rules against this checkpoint's headers; the tensors that they make are read
    /// lazily.
    ///
    /// # Errors
    /// A [`ConversionError`] for every rule that does not fit: a name that is not there, a pattern
    /// that matches nothing, two tensors of one name, shapes that do not fit together, a slice
    /// outside of its extent, elements of less than a byte or raw quantised blocks that would be
    /// parted, a cast that does not exist.
    pub fn convert(self, conversion: &Conversion) -> Result<Converted, ConversionError> {
        let unit = |map: &DiskMap, name: &str| Some(Unit::of_blocks(map.tensor(name)?.raw_block()?));
        Converted::with_units(self, conversion, unit)
    }
}

impl<S: WeightSource> Converted<S> {
    /// Compiles rules against any source, whose names and shapes are looked at and nothing else.
    ///
    /// # Errors
    /// As [`DiskMap::convert`].
    pub fn new(source: S, conversion: &Conversion) -> Result<Converted<S>, ConversionError> {
        Converted::with_units(source, conversion, |_, _| None)
    }

    /// `units` tells of tensors whose elements are parted less finely than their dtype says.
    fn with_units(
        source: S,
        conversion: &Conversion,
        units: impl Fn(&S, &str) -> Option<Unit>,
    ) -> Result<Converted<S>, ConversionError> {
        let sources: Vec<SourceTensor> = source
            .names()
            .filter_map(|name| Some(SourceTensor { name: name.to_owned(), located: source.locate(name)? }))
            .collect();
        let mut state = State::new();
        for (SourceTensor { name, located }, first) in sources.iter().zip(Identities::firsts(&sources)) {
            let unit = units(&source, name).unwrap_or_else(|| Unit::of(located.meta.dtype()));
            state.insert(name.clone(), Expr::source(first, located.meta.clone(), unit));
        }
        let made = compile(conversion, state, &|name| missing(&source, name))?;
        let mut made: Vec<(String, Arc<Expr>)> = made.into_iter().collect();
        made.sort_by_cached_key(|(_, expr)| expr.place());
        let mut identities = Identities::new(&sources);
        let tensors: Vec<Tensor> = made
            .into_iter()
            .map(|(name, expr)| Tensor { located: identities.locate(&expr), name: name.into(), expr })
            .collect();
        let numbers = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(Converted { source, sources, tensors, numbers })
    }

    /// What the tensors are made of.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// All tensors, roughly in the order of the sources' bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Located)> + '_ {
        self.tensors.iter().map(|tensor| (&*tensor.name, &tensor.located))
    }

    /// The names of the source's tensors that a tensor is made of, in the order of its
    /// parts; of several that are tied, the first. Empty if there is no tensor of that name.
    pub fn made_of(&self, name: &str) -> Vec<&str> {
        let mut numbers = Vec::new();
        if let Some(tensor) = self.tensor(name) {
            tensor.expr.sources(&mut |number| numbers.push(number as usize));
        }
        let mut seen = HashSet::new();
        numbers.retain(|number| seen.insert(*number));
        numbers.into_iter().filter_map(|number| Some(self.sources.get(number)?.name.as_str())).collect()
    }

    /// Reads a whole tensor.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name; the errors of the source.
    pub fn get(&self, name: &str) -> Result<HostTensor, SourceError> {
        let tensor = self.required(name)?;
        self.read(&tensor.expr, name)
    }

    /// Reads a part of a tensor, and of its sources no more than that takes: one range per extent,
    /// outermost first; extents without a range are taken whole.
    ///
    /// # Errors
    /// As [`get`](Converted::get); `OutOfRange` if the slice is outside the shape, `Unsupported`
    /// if it parts a byte.
    pub fn get_slice(&self, name: &str, ranges: &[Range<usize>]) -> Result<HostTensor, SourceError> {
        let mut expr = Arc::clone(&self.required(name)?.expr);
        for (dim, range) in ranges.iter().enumerate() {
            expr = expr::slice(&expr, dim, range.clone()).map_err(|e| {
                let kind = match e.kind() {
                    ConversionErrorKind::Shape => SourceErrorKind::OutOfRange,
                    _ => SourceErrorKind::Unsupported,
                };
                SourceError::new(kind, e.message()).at_tensor(name)
            })?;
        }
        self.read(&expr, name)
    }

    fn read(&self, expr: &Expr, name: &str) -> Result<HostTensor, SourceError> {
        let tensor = HostTensor::filled(expr.meta.clone(), |dst| {
            let request = ReadRequest::tensor(name, 0, dst);
            self.perform(expr, 0, request, &ReadOptions::BLOCKING)
        });
        tensor.map_err(|e| if e.tensor().is_some() { e } else { e.at_tensor(name) })
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(*self.numbers.get(name)?)
    }

    fn required(&self, name: &str) -> Result<&Tensor, SourceError> {
        self.tensor(name).ok_or_else(|| {
            let message = "the conversion makes no such tensor";
            SourceError::new(SourceErrorKind::NotFound, message).at_tensor(name)
        })
    }

    /// Reads bytes of a tensor from `offset` on, at once.
    fn perform(
        &self,
        expr: &Expr,
        offset: u64,
        request: ReadRequest<'_>,
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let mut direct = Vec::new();
        self.begin(expr, offset, request, &mut direct, options)?;
        self.source.read_many(&mut direct, options)
    }

    /// Adds what the source can read by itself to `direct`, and reads everything else.
    fn begin<'r>(
        &'r self,
        expr: &Expr,
        offset: u64,
        request: ReadRequest<'r>,
        direct: &mut Vec<ReadRequest<'r>>,
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let ReadRequest { bytes, dst, at, .. } = request;
        let name = |source: u32| self.sources.get(source as usize).map_or("", |tensor| tensor.name.as_str());
        let target = |source, offset| ReadTarget::Tensor { name: name(source), offset };
        let Some(runs) = runs(expr, offset..offset + bytes) else {
            let tensors = &self.sources;
            let gather = Gather { source: &self.source, tensors, options };
            return gather.bytes(expr, offset, &mut dst[at..at + bytes as usize]);
        };
        if let [run] = runs.as_slice() {
            direct.push(ReadRequest { target: target(run.source, run.bytes.start), bytes, dst, at });
            return Ok(());
        }
        let mut rest = &mut dst[at..at + bytes as usize];
        for run in runs {
            let bytes = run.bytes.end - run.bytes.start;
            let (dst, after) = rest.split_at_mut(bytes as usize);
            direct.push(ReadRequest { target: target(run.source, run.bytes.start), bytes, dst, at: 0 });
            rest = after;
        }
        Ok(())
    }
}

impl<S: WeightSource> WeightSource for Converted<S> {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.iter().map(|(name, _)| name))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        Some(self.tensor(name)?.located.clone())
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        self.source.describe(file)
    }

    /// What lies in files is asked of the source at once, everything else piece by piece on the
    /// calling thread.
    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        let mut direct = Vec::with_capacity(requests.len());
        for request in requests {
            options.check()?;
            let len = request.wanted()?.len() as u64;
            let (target, bytes, at) = (request.target, request.bytes, request.at);
            let dst = &mut *request.dst;
            match target {
                ReadTarget::File { .. } => direct.push(ReadRequest { target, bytes, dst, at }),
                ReadTarget::Tensor { name, offset } => {
                    let tensor = self.required(name)?;
                    let all = tensor.expr.meta.bytes();
                    if offset.checked_add(len).is_none_or(|end| end > all) {
                        let message = format!("{len} bytes at {offset} of {all}");
                        return Err(SourceError::new(SourceErrorKind::OutOfRange, message).at_tensor(name));
                    }
                    let request = ReadRequest { target, bytes, dst, at };
                    self.begin(&tensor.expr, offset, request, &mut direct, options)?;
                }
            }
        }
        self.source.read_many(&mut direct, options)
    }

    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        self.source.map(range)
    }

    fn alignment(&self) -> u64 {
        self.source.alignment()
    }

    fn bytes_read(&self) -> u64 {
        self.source.bytes_read()
    }

    /// Those of the source, under their names there: which of the new tensors would have been made
    /// of them is not known.
    fn unreadable_tensors(&self) -> Vec<(String, String)> {
        self.source.unreadable_tensors()
    }

    /// Of all tensors that it is made of.
    fn stored_bytes(&self, name: &str) -> Option<u64> {
        let of = self.made_of(name);
        of.iter().try_fold(0u64, |sum, name| Some(sum.saturating_add(self.source.stored_bytes(name)?)))
    }
}

impl<S> fmt::Debug for Converted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Converted")
            .field("tensors", &self.tensors.len())
            .field("of", &self.sources.len())
            .finish_non_exhaustive()
    }
}

/// Why a tensor is not there when a rule asks for it.
fn missing(source: &impl WeightSource, name: &str) -> ConversionError {
    let there = match source.locate(name) {
        Some(_) => Some("a rule before this one has taken it".to_owned()),
        // A source knows of tensors that it cannot read, and says why.
        None => match source.read_range(name, 0..0, &mut []) {
            Err(e) if e.kind() == SourceErrorKind::Unsupported => {
                Some(format!("it cannot be read: {}", e.message()))
            }
            _ => None,
        },
    };
    let message = there.unwrap_or_else(|| "there is no tensor of this name".to_owned());
    ConversionError::new(ConversionErrorKind::NotFound, message).of(name)
}
