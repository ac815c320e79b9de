//! The state of each unit.

use crate::error::Error;
use crate::plan::partition::UnitId;
use crate::state::{Event, State, transition};

#[derive(Debug, Default)]
pub(super) struct States(Vec<State>);

impl States {
    /// States of the units of an active model, some of which are on the device.
    pub(super) fn new(on_device: impl Iterator<Item = bool>) -> States {
        States(on_device.map(|there| if there { State::Preparing } else { State::Onload }).collect())
    }

    /// All states, by unit.
    pub(super) fn all(&self) -> &[State] {
        &self.0
    }

    pub(super) fn apply(&mut self, unit: UnitId, event: Event) -> Result<(), Error> {
        let state = self.0[unit.0];
        self.0[unit.0] = transition(state, event)?.0;
        Ok(())
    }
}
