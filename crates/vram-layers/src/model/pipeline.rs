//! Several models under one device budget: a text encoder, a transformer, a decoder, one after the other.
//!
//! Models need not be loaded and offloaded explicitly. When another model begins to run, its predecessors
//! give back what only a running pass needs, and keep as much of the rest as pays. It is cheaper to leave a
//! text encoder in place than to load it again for the next picture, unless the transformer's many passes
//! gain more from the room. The most recently run model is evicted first, because in a cycle it is needed
//! again last.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, Weak};

use serde::Serialize;
use vram_device::Budget;

use crate::engine::{Engine, Neighbours};
use crate::error::Error;
use crate::plan::compose::{PlanInput, plan};
use crate::sync::{Mutex, MutexGuard};

/// Passes that a model's turn is assumed to have until it has run once.
const UNKNOWN_PASSES: u64 = 4;

/// How many turns are remembered.
const SWITCHES: usize = 256;

/// The shares of evictable bytes that are compared, in quarters.
const SHARES: [u64; 5] = [0, 1, 2, 3, 4];

/// Models that share a device budget and run in turn.
///
/// ```
/// # use std::sync::Arc;
/// # use vram_layers::{Engine, Error};
/// use vram_layers::Pipeline;
///
/// /// Two engines whose budgets are clones of one.
/// fn join(text: &Arc<Engine>, image: &Arc<Engine>) -> Result<Pipeline, Error> {
///     let pipeline = Pipeline::new(text.budget().clone());
///     pipeline.add("text encoder", text)?;
///     pipeline.add("transformer", image)?;
///     // Passes of either begin as usual; the pipeline makes room for them.
///     Ok(pipeline)
/// }
///
/// fn report(pipeline: &Pipeline) {
///     for switch in pipeline.switches() {
///         println!("{}: {} bytes evicted", switch.model, switch.evicted_bytes());
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Pipeline(Arc<Stages>);

/// State shared with the engines, which reach it when they begin a pass.
#[derive(Debug)]
pub(crate) struct Stages {
    budget: Budget,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stages: Vec<Stage>,
    /// Stages in the order in which they last ran, the latest at the end.
    order: Vec<usize>,
    switches: VecDeque<Switch>,
}

#[derive(Debug)]
struct Stage {
    name: String,
    engine: Weak<Engine>,
    /// Bytes that it holds while others run.
    parked: u64,
    /// Passes in the current turn, and in the whole last turn.
    passes: u64,
    last_turn: Option<u64>,
}

/// A model's turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// Which.
    pub model: String,
    /// Passes that the turn was expected to have.
    pub expected_passes: u64,
    /// Models that gave up memory, and how many bytes each.
    pub evicted: Vec<(String, u64)>,
    /// Bytes that the others still hold.
    pub kept_by_others: u64,
}

impl Switch {
    /// Total bytes evicted.
    pub fn evicted_bytes(&self) -> u64 {
        self.evicted.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Pipeline {
    /// A pipeline under a budget that all its models share.
    pub fn new(budget: Budget) -> Pipeline {
        Pipeline(Arc::new(Stages { budget, state: Mutex::default() }))
    }

    /// Adds a model. Its budget must be the pipeline's, or a clone of it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model with another budget.
    pub fn add(&self, name: &str, engine: &Arc<Engine>) -> Result<(), Error> {
        if !engine.budget().is_same(&self.0.budget) {
            return Err(Error::Unsupported(format!(
                "model {name:?} has another device budget; models of a pipeline share one"
            )));
        }
        let mut state = self.0.state();
        let stage = state.stages.len();
        state.stages.push(Stage {
            name: name.to_owned(),
            engine: Arc::downgrade(engine),
            parked: 0,
            passes: 0,
            last_turn: None,
        });
        let stages: Arc<dyn Neighbours> = Arc::<Stages>::clone(&self.0);
        engine.join(Arc::downgrade(&stages), stage);
        Ok(())
    }

    /// The last turns, up to 256 of them, first to last.
    pub fn switches(&self) -> Vec<Switch> {
        self.0.state().switches.iter().cloned().collect()
    }
}

impl Stages {
    fn state(&self) -> MutexGuard<'_, State> {
        // Lock order: an engine's admission, this, then the admissions of idle engines, which wait for no
        // lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Neighbours for Stages {
    fn make_room(&self, stage: usize, own: u64, input: &PlanInput<'_>) -> Result<(), Error> {
        let mut state = self.state();
        let new_turn = state.order.last() != Some(&stage);
        if new_turn && let Some(&before) = state.order.last() {
            let before = &mut state.stages[before];
            before.last_turn = Some(std::mem::take(&mut before.passes));
        }
        let held = state.park_others(stage)?;
        let others = self.budget.used().saturating_sub(own);
        // What is held outside of the pipeline, or by a running model, stays.
        let available = self.budget.limit().saturating_sub(others.saturating_sub(held));
        let expected = state.stages[stage].last_turn.unwrap_or(UNKNOWN_PASSES);
        let evict = best_share(input, available, held, expected)?;
        let evicted = state.evict(stage, evict)?;
        let gone: u64 = evicted.iter().map(|(_, bytes)| bytes).sum();
        if new_turn || gone > 0 {
            let switch = Switch {
                model: state.stages[stage].name.clone(),
                expected_passes: expected,
                kept_by_others: held - gone,
                evicted,
            };
            tracing::debug!(?switch, "another model's turn");
            if state.switches.len() == SWITCHES {
                state.switches.pop_front();
            }
            state.switches.push_back(switch);
        }
        state.order.retain(|s| *s != stage);
        state.order.push(stage);
        Ok(())
    }

    fn count(&self, stage: usize) {
        self.state().stages[stage].passes += 1;
    }
}

impl State {
    /// Takes what only a running pass needs from all other stages. Returns the bytes that they still hold and
    /// could give up.
    fn park_others(&mut self, running: usize) -> Result<u64, Error> {
        let mut held = 0;
        for (_, stage) in self.stages.iter_mut().enumerate().filter(|(i, _)| *i != running) {
            stage.parked = park(stage, u64::MAX)?;
            held += stage.parked;
        }
        Ok(held)
    }

    /// Evicts at least `bytes`, from the most recently run model first, because in a cycle it is needed again
    /// last.
    fn evict(&mut self, running: usize, mut bytes: u64) -> Result<Vec<(String, u64)>, Error> {
        let never = (0..self.stages.len()).filter(|s| !self.order.contains(s));
        let order: Vec<usize> =
            self.order.iter().rev().copied().chain(never).filter(|s| *s != running).collect();
        let mut evicted = Vec::new();
        for stage in order {
            let stage = &mut self.stages[stage];
            if bytes == 0 || stage.parked == 0 {
                continue;
            }
            let before = stage.parked;
            stage.parked = park(stage, before.saturating_sub(bytes))?;
            let gone = before - stage.parked;
            bytes = bytes.saturating_sub(gone);
            if gone > 0 {
                evicted.push((stage.name.clone(), gone));
            }
        }
        Ok(evicted)
    }
}

/// Parks a stage's engine; one that is running or gone gives nothing.
fn park(stage: &Stage, keep: u64) -> Result<u64, Error> {
    match stage.engine.upgrade().map(|engine| engine.park(keep)) {
        Some(Err(Error::Busy)) | None => Ok(0),
        Some(kept) => kept,
    }
}

/// How many of the bytes that others hold are worth evicting for a turn of `passes` passes.
fn best_share(input: &PlanInput<'_>, available: u64, held: u64, passes: u64) -> Result<u64, Error> {
    let mut best: Option<(f64, u64)> = None;
    let mut refused = None;
    for quarters in SHARES {
        let evict = held / 4 * quarters + if quarters == 4 { held % 4 } else { 0 };
        let with = PlanInput { budget: available.saturating_sub(held - evict), ..input.clone() };
        match plan(&with) {
            Ok(planned) => {
                // Evicted bytes must be read again when their model's turn comes.
                let again = evict as f64 / input.costs.disk.bytes_per_second.max(1.0);
                let seconds = passes as f64 * planned.data.pass_seconds + again;
                if best.is_none_or(|(least, _)| seconds < least) {
                    best = Some((seconds, evict));
                }
                if planned.data.ring_bytes == 0 {
                    // Everything stays already.
                    break;
                }
            }
            Err(e) => refused = Some(e),
        }
        if held == 0 {
            break;
        }
    }
    match (best, refused) {
        (Some((_, evict)), _) => Ok(evict),
        (None, Some(e)) => Err(e),
        (None, None) => Ok(0),
    }
}
