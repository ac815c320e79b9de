//! Several sources as one, a prefix before the names of each.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use super::parts::Parts;
use super::{FileId, FileRange, HostBytes, Located, ReadOptions, ReadRequest, WeightSource};
use crate::{SourceError, SourceErrorKind};

/// Several sources as one: tensor `x` of a source whose prefix is `p` is named `px`.
///
/// The models of a pipeline come from checkpoints of their own and use the same names; joined
/// under a prefix each, they are one source. The prefix is put before the name as it is, so it
/// usually ends in a dot; it may be empty. Files are numbered anew, those of the first source
/// first.
///
/// ```
/// use std::sync::Arc;
/// use vram_types::{DType, GeneratedSource, Joined, TensorMeta, WeightSource, WeightSourceExt};
///
/// let model = |value: u8| -> Result<Arc<dyn WeightSource>, vram_types::SourceError> {
///     let meta = TensorMeta::new(DType::U8, [4]).expect("four bytes");
///     Ok(Arc::new(GeneratedSource::new([("img_in.weight", meta)], move |_, _, dst| dst.fill(value))?))
/// };
/// let both = Joined::new([("transformer.", model(1)?), ("controlnet.", model(2)?)])?;
/// let mut bytes = [0; 4];
/// both.read_range("controlnet.img_in.weight", 0..4, &mut bytes)?;
/// assert_eq!(bytes, [2; 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Joined {
    parts: Parts,
    /// In the order in which they were given.
    prefixed: Vec<Prefixed>,
    names: Vec<Arc<str>>,
    /// Which of `prefixed` a name is of.
    owners: HashMap<Arc<str>, usize>,
}

struct Prefixed {
    prefix: String,
    part: usize,
}

impl Joined {
    /// Joins sources, each with its prefix. One source may be given several times.
    ///
    /// # Errors
    /// [`SourceErrorKind::Duplicate`] where two tensors would have the same name, naming both;
    /// `Unsupported` where there are more files than can be numbered.
    pub fn new<P: Into<String>>(
        sources: impl IntoIterator<Item = (P, Arc<dyn WeightSource>)>,
    ) -> Result<Joined, SourceError> {
        let mut joined = Joined {
            parts: Parts::default(),
            prefixed: Vec::new(),
            names: Vec::new(),
            owners: HashMap::new(),
        };
        for (prefix, source) in sources {
            let prefix = prefix.into();
            let part = joined.parts.add(Arc::clone(&source))?;
            for own in source.names() {
                joined.name(&prefix, own)?;
            }
            joined.prefixed.push(Prefixed { prefix, part });
        }
        Ok(joined)
    }

    /// Adds a name of the source that is being added.
    fn name(&mut self, prefix: &str, own: &str) -> Result<(), SourceError> {
        let number = self.prefixed.len();
        match self.owners.entry(format!("{prefix}{own}").into()) {
            Entry::Vacant(free) => {
                self.names.push(Arc::clone(free.key()));
                free.insert(number);
                Ok(())
            }
            Entry::Occupied(taken) => {
                let other = self.prefixed.get(*taken.get()).map_or(prefix, |other| &other.prefix);
                let others = taken.key().strip_prefix(other).unwrap_or(taken.key());
                let message = format!(
                    "source {} has {others:?} under the prefix {other:?}, and source {number} has {own:?} under {prefix:?}",
                    taken.get(),
                );
                Err(SourceError::new(SourceErrorKind::Duplicate, message).at_tensor(&**taken.key()))
            }
        }
    }

    /// The part that has a tensor, and its name there.
    fn find<'n>(&self, name: &'n str) -> Option<(usize, &'n str)> {
        let Prefixed { prefix, part } = self.prefixed.get(*self.owners.get(name)?)?;
        Some((*part, name.strip_prefix(prefix.as_str())?))
    }
}

impl WeightSource for Joined {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.names.iter().map(|name| &**name))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let (part, own) = self.find(name)?;
        self.parts.locate(part, own)
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        self.parts.describe(file)
    }

    /// Reads source after source, what concerns a source at once. Errors name the tensor with its
    /// prefix; of a source that has several, with the first.
    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        let name = |part, own: &str| {
            let prefix = self.prefixed.iter().find(|p| p.part == part).map_or("", |p| &p.prefix);
            format!("{prefix}{own}")
        };
        self.parts.read_many(requests, options, |name| self.find(name), name)
    }

    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        self.parts.map(range)
    }

    fn alignment(&self) -> u64 {
        self.parts.alignment()
    }

    fn bytes_read(&self) -> u64 {
        self.parts.bytes_read()
    }

    fn unreadable_tensors(&self) -> Vec<(String, String)> {
        let of = |p: &Prefixed| {
            let all = self.parts.get(p.part).map_or(Vec::new(), |source| source.unreadable_tensors());
            all.into_iter().map(|(name, why)| (format!("{}{name}", p.prefix), why)).collect::<Vec<_>>()
        };
        self.prefixed.iter().flat_map(of).collect()
    }

    fn stored_bytes(&self, name: &str) -> Option<u64> {
        let (part, own) = self.find(name)?;
        self.parts.get(part)?.stored_bytes(own)
    }
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<&str> = self.prefixed.iter().map(|p| p.prefix.as_str()).collect();
        f.debug_struct("Joined")
            .field("prefixes", &prefixes)
            .field("tensors", &self.names.len())
            .finish_non_exhaustive()
    }
}
