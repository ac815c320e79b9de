//! The key-value cache of a sequence.

use std::ops::Range;

use vram_device::{View, ViewMut};
use vram_layers::{Error, Session, Tensor};
use vram_types::{DType, TensorMeta};

use super::config::Config;

/// Keys and values of one sequence, in memory that counts against the budget from its creation.
#[derive(Debug)]
pub struct Cache {
    /// Keys and values of each block.
    layers: Vec<[Rows; 2]>,
    len: usize,
    capacity: usize,
}

/// `[capacity, kv_width]`.
#[derive(Debug)]
pub(super) struct Rows {
    meta: TensorMeta,
    /// Absent if a pass is only planned.
    memory: Option<Tensor>,
}

impl Cache {
    /// Room for `capacity` tokens in session memory, in the compute dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] if the size overflows; see also [`Session::alloc`].
    pub fn new(session: &Session, config: &Config, capacity: usize, dtype: DType) -> Result<Cache, Error> {
        Cache::of(config, capacity, dtype, |meta| session.tensor(meta).map(Some))
    }

    /// A cache for planning, which has a size but no memory.
    ///
    /// # Errors
    /// [`Error::Shape`] if the size overflows.
    pub fn planned(config: &Config, capacity: usize, dtype: DType) -> Result<Cache, Error> {
        Cache::of(config, capacity, dtype, |_| Ok(None))
    }

    fn of(
        config: &Config,
        capacity: usize,
        dtype: DType,
        mut memory: impl FnMut(TensorMeta) -> Result<Option<Tensor>, Error>,
    ) -> Result<Cache, Error> {
        let meta = TensorMeta::new(dtype, [capacity, config.kv_width()])?;
        let mut rows =
            || -> Result<Rows, Error> { Ok(Rows { memory: memory(meta.clone())?, meta: meta.clone() }) };
        let layers = (0..config.layers).map(|_| Ok([rows()?, rows()?])).collect::<Result<_, Error>>()?;
        Ok(Cache { layers, len: 0, capacity })
    }

    /// Bytes of session memory that a cache takes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the size overflows.
    pub fn bytes(config: &Config, capacity: usize, dtype: DType) -> Result<u64, Error> {
        let meta = TensorMeta::new(dtype, [capacity, config.kv_width()])?;
        let aligned = meta.bytes().checked_next_multiple_of(Session::ALIGNMENT);
        let all = aligned.and_then(|bytes| bytes.checked_mul(2 * config.layers as u64));
        all.ok_or_else(|| Error::Shape(format!("a cache of {capacity} tokens is larger than memory can be")))
    }

    /// Number of tokens that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of tokens that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The positions of the next `tokens` tokens.
    pub(super) fn room_for(&self, tokens: usize) -> Result<Range<usize>, Error> {
        let end = self.len.saturating_add(tokens);
        if tokens == 0 {
            return Err(Error::Shape("a piece without tokens".into()));
        }
        if end > self.capacity {
            return Err(Error::Shape(format!(
                "{tokens} tokens after {} do not fit in a cache of {}",
                self.len, self.capacity
            )));
        }
        Ok(self.len..end)
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Keys and values of a block.
    pub(super) fn layer_mut(&mut self, number: usize) -> Result<[&mut Rows; 2], Error> {
        match self.layers.get_mut(number) {
            Some([keys, values]) => Ok([keys, values]),
            None => Err(Error::Model(format!("the cache is for fewer blocks than {}", number + 1))),
        }
    }
}

impl Rows {
    pub(super) fn capacity(&self) -> usize {
        self.meta.shape().rows()
    }

    pub(super) fn rows(&self, rows: Range<usize>) -> Result<View<'_>, Error> {
        match &self.memory {
            Some(memory) => memory.rows(rows),
            None => Ok(View::absent(self.some(rows.len())?)),
        }
    }

    pub(super) fn rows_mut(&mut self, rows: Range<usize>) -> Result<ViewMut<'_>, Error> {
        let absent = self.some(rows.len())?;
        self.memory.as_mut().map_or(Ok(ViewMut::absent(absent)), |memory| memory.rows_mut(rows))
    }

    fn some(&self, rows: usize) -> Result<TensorMeta, Error> {
        Ok(TensorMeta::new(self.meta.dtype(), self.meta.shape().with_first(rows))?)
    }
}
