//! Batches of sequences.

use std::cell::RefCell;

use vram_layers::{Error, Forward, Managed, Prepared, RunOptions, Session};

use super::cache::Cache;
use super::config::Config;
use super::model::{Llama, Piece};

/// Sequences that are continued together, each with its own cache. A streamed weight serves all of them, and
/// each gets the same logits as alone, bit for bit.
/// Long inputs are processed in passes of limited length. Memory for caches and activations is fixed when the
/// batch is created: nothing later can exceed the budget.
/// made: nothing later can exceed the budget.
#[derive(Debug)]
pub struct Batch<'m> {
    model: &'m Managed<Llama>,
    caches: Vec<Cache>,
    /// Most tokens of a pass.
    chunk: usize,
    long: Prepared,
    step: Prepared,
    /// Memory of the caches.
    _session: Session,
}

/// The size of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    /// Number of sequences.
    pub sequences: usize,
    /// Most tokens of a sequence, including those that it generates.
    pub context: usize,
    /// Most tokens in a pass. A larger value takes more memory and speeds up long prompts; the answer is the
    /// same.
    pub chunk: usize,
}

impl BatchSize {
    fn check(self, config: &Config) -> Result<BatchSize, Error> {
        let BatchSize { sequences, context, chunk } = self;
        if sequences == 0 || context == 0 || chunk < sequences {
            return Err(Error::Shape(format!(
                "{sequences} sequences of {context} tokens, {chunk} in a pass: each needs at least one token"
            )));
        }
        if context > config.positions {
            return Err(Error::Shape(format!(
                "a context of {context} tokens; the model supports {} at most",
                config.positions
            )));
        }
        Ok(self)
    }
}

impl<'m> Batch<'m> {
    /// Allocates the caches from the model's budget.
    ///
    /// # Errors
    /// [`Error::Shape`] for a context longer than the model supports, [`Error::BudgetTooSmall`] if caches and
    /// a pass do not fit the budget; [`largest_context`](Batch::largest_context) returns a context that fits.
    pub fn new(model: &'m Managed<Llama>, size: BatchSize) -> Result<Batch<'m>, Error> {
        let config = model.model().config();
        let BatchSize { sequences, context, chunk } = size.check(config)?;
        let prepared = |tokens| {
            let largest = Largest::new(model, size, tokens)?;
            model.prepare(|model, fwd| largest.run(model, fwd))
        };
        let (long, step) = (prepared(chunk)?, prepared(sequences)?);
        let (needed, given, session) =
            (needed(model, size)?, model.engine().budget().limit(), caches(model, size)?);
        if needed > given {
            let workspace = long.workspace_bytes();
            let weights = needed.saturating_sub(workspace).saturating_sub(session);
            return Err(Error::BudgetTooSmall { needed, given, workspace, weights, session });
        }
        let session = model.session(session)?;
        let cache = |_| Cache::new(&session, config, context, model.dtype());
        let caches = (0..sequences).map(cache).collect::<Result<_, _>>()?;
        Ok(Batch { model, caches, chunk, long, step, _session: session })
    }

    /// The longest context up to that of `size` that fits the model's budget; `None` if not even one token
    /// fits.
    ///
    /// # Errors
    /// See [`new`](Batch::new).
    pub fn largest_context(model: &Managed<Llama>, size: BatchSize) -> Result<Option<usize>, Error> {
        let limit = model.engine().budget().limit();
        let fits = |context| Ok::<_, Error>(needed(model, BatchSize { context, ..size })? <= limit);
        let (mut good, mut bad) = (0, size.context.min(model.model().config().positions) + 1);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if fits(middle)? { good = middle } else { bad = middle }
        }
        Ok((good > 0).then_some(good))
    }

    /// The smallest budget in bytes for such a batch.
    ///
    /// # Errors
    /// See [`new`](Batch::new).
    pub fn minimum_budget(model: &Managed<Llama>, size: BatchSize) -> Result<u64, Error> {
        needed(model, size.check(model.model().config())?)
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.caches.len()
    }

    /// Number of tokens in a sequence's cache.
    pub fn len(&self, sequence: usize) -> usize {
        self.caches.get(sequence).map_or(0, Cache::len)
    }

    /// Whether all caches are empty.
    pub fn is_empty(&self) -> bool {
        self.caches.iter().all(Cache::is_empty)
    }

    /// Makes a sequence forget all tokens but its first `len`.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        if let Some(cache) = self.caches.get_mut(sequence) {
            cache.truncate(len);
        }
    }

    /// Appends tokens to sequences, and returns the logits after the last token of each: `vocabulary` values
    /// each, in the order of `tokens`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a sequence that does not exist or is named twice, and for no tokens or more than
    /// fit its cache; see [`Managed::run`]. Tokens processed before an error stay in the cache.
    pub fn show(&mut self, tokens: &[(usize, &[u32])], options: &RunOptions) -> Result<Vec<Vec<f32>>, Error> {
        let mut order: Vec<Option<usize>> = vec![None; self.caches.len()];
        for (at, (sequence, ids)) in tokens.iter().enumerate() {
            match order.get_mut(*sequence) {
                Some(slot @ None) if !ids.is_empty() => *slot = Some(at),
                Some(Some(_)) => return Err(Error::Shape(format!("sequence {sequence} is named twice"))),
                Some(None) => return Err(Error::Shape(format!("sequence {sequence} is given no tokens"))),
                None => return Err(Error::Shape(format!("there is no sequence {sequence}"))),
            }
            self.caches[*sequence].room_for(ids.len())?;
        }
        let mut logits = vec![Vec::new(); tokens.len()];
        let mut rest: Vec<&[u32]> = tokens.iter().map(|(_, ids)| *ids).collect();
        while rest.iter().any(|ids| !ids.is_empty()) {
            let mut free = self.chunk;
            let mut asking = Vec::new();
            let mut pieces = Vec::new();
            for (cache, at) in self.caches.iter_mut().zip(&order) {
                let Some(at) = *at else { continue };
                let (ids, later) = rest[at].split_at(rest[at].len().min(free));
                if ids.is_empty() {
                    continue;
                }
                free -= ids.len();
                rest[at] = later;
                if later.is_empty() {
                    asking.push(at);
                }
                pieces.push(Piece { ids, cache, logits: later.is_empty() });
            }
            let small = self.chunk - free <= order.len() && pieces.iter().all(|piece| piece.ids.len() == 1);
            let prepared = if small { &self.step } else { &self.long };
            let options = RunOptions { last: false, ..options.clone() };
            let rows =
                self.model.run_prepared(prepared, options, |model, fwd| run(model, fwd, &mut pieces))?;
            for (at, row) in asking.into_iter().zip(rows) {
                logits[at] = row;
            }
        }
        Ok(logits)
    }
}

/// Runs a pass and returns its logits.
fn run(model: &Llama, fwd: &mut Forward<'_>, pieces: &mut [Piece<'_>]) -> Result<Vec<Vec<f32>>, Error> {
    let Some(logits) = model.forward(fwd, pieces)? else { return Ok(Vec::new()) };
    let bytes = fwd.download(&logits)?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Ok(values.chunks_exact(logits.shape().last().max(1)).map(<[f32]>::to_vec).collect())
}

/// A pass that no pass of the batch exceeds: every sequence asks for logits, and the first has all tokens
/// that the others leave. It is used only for planning.
struct Largest {
    ids: Vec<u32>,
    context: usize,
    caches: RefCell<Vec<Cache>>,
}

impl Largest {
    fn new(model: &Managed<Llama>, size: BatchSize, tokens: usize) -> Result<Largest, Error> {
        let BatchSize { sequences, context, .. } = size;
        let planned = |_| Cache::planned(model.model().config(), context, model.dtype());
        let caches = (0..sequences).map(planned).collect::<Result<_, _>>()?;
        let ids = vec![0; tokens.min(context.saturating_mul(sequences))];
        Ok(Largest { ids, context, caches: RefCell::new(caches) })
    }

    fn run(&self, model: &Llama, fwd: &mut Forward<'_>) -> Result<(), Error> {
        let mut caches = self.caches.borrow_mut();
        let (mut rest, mut left) = (self.ids.as_slice(), caches.len());
        let mut pieces = Vec::with_capacity(left);
        for cache in caches.iter_mut() {
            left -= 1;
            let (ids, later) = rest.split_at((rest.len() - left).min(self.context));
            rest = later;
            pieces.push(Piece { ids, cache, logits: true });
        }
        run(model, fwd, &mut pieces).map(drop)
    }
}

/// Bytes of all caches.
fn caches(model: &Managed<Llama>, size: BatchSize) -> Result<u64, Error> {
    let one = Cache::bytes(model.model().config(), size.context, model.dtype())?;
    Ok(one.saturating_mul(size.sequences as u64))
}

/// The smallest budget in bytes for the caches and the largest pass.
fn needed(model: &Managed<Llama>, size: BatchSize) -> Result<u64, Error> {
    let largest = Largest::new(model, size, size.chunk)?;
    let pass = model.minimum_budget(|model, fwd| largest.run(model, fwd))?;
    Ok(pass.saturating_add(caches(model, size)?))
}
