//! The four residency states, and the table of allowed transitions.

use std::error::Error;
use std::fmt;

use vram_device::Tier;
use vram_types::DType;

/// The residency state of a unit of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Its model is not the active one.
    Offload,
    /// Its model is active; the weights come when needed.
    Onload,
    /// Kept on the device, as the plan granted.
    Preparing,
    /// In use under a lease, only inside a forward.
    Computation,
}

/// What happens to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Its model becomes active.
    Onload,
    /// Its model is put away.
    Offload,
    /// The plan grants it a place on the device.
    Prepare,
    /// The plan takes its place on the device back.
    Evict,
    /// A layer begins to compute with it.
    Acquire,
    /// The layer is done; the weights passed through the ring.
    ReleaseStreamed,
    /// The layer is done; the weights stay.
    ReleaseResident,
}

/// What the engine has to do for a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing moves.
    None,
    /// Load into its own place on the device.
    LoadResident,
    /// Give that place back.
    FreeResident,
    /// Take a slot of the ring and wait for the weights in it.
    TakeSlot,
    /// Give the slot back once the last kernel that reads it is done.
    FreeSlot,
}

/// All states.
pub const STATES: [State; 4] = [State::Offload, State::Onload, State::Preparing, State::Computation];

/// All events.
pub const EVENTS: [Event; 7] = [
    Event::Onload,
    Event::Offload,
    Event::Prepare,
    Event::Evict,
    Event::Acquire,
    Event::ReleaseStreamed,
    Event::ReleaseResident,
];

/// The next state, and what has to be done to get there.
///
/// # Errors
/// [`ForbiddenTransition`] for every pair that is not in the table.
pub fn transition(state: State, event: Event) -> Result<(State, Action), ForbiddenTransition> {
    Ok(match (state, event) {
        (State::Offload, Event::Onload) => (State::Onload, Action::None),
        (State::Onload, Event::Offload) => (State::Offload, Action::None),
        (State::Onload, Event::Prepare) => (State::Preparing, Action::LoadResident),
        (State::Onload, Event::Acquire) => (State::Computation, Action::TakeSlot),
        (State::Preparing, Event::Onload | Event::Evict) => (State::Onload, Action::FreeResident),
        (State::Preparing, Event::Offload) => (State::Offload, Action::FreeResident),
        (State::Preparing, Event::Acquire) => (State::Computation, Action::None),
        (State::Computation, Event::ReleaseStreamed) => (State::Onload, Action::FreeSlot),
        (State::Computation, Event::ReleaseResident) => (State::Preparing, Action::None),
        (state, event) => return Err(ForbiddenTransition { state, event }),
    })
}

/// A unit cannot do this in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForbiddenTransition {
    /// The state it is in.
    pub state: State,
    /// What was asked of it.
    pub event: Event,
}

impl fmt::Display for ForbiddenTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a unit in state {:?} cannot {:?}", self.state, self.event)
    }
}

impl Error for ForbiddenTransition {}

/// Where weights are in a given state, and in what dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The tier.
    pub tier: Tier,
    /// The dtype there; the checkpoint's own if `None`.
    pub dtype: Option<DType>,
}

impl Placement {
    /// On a tier, in the checkpoint's own dtype.
    pub const fn on(tier: Tier) -> Placement {
        Placement { tier, dtype: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, written by hand: state, event, next state, action. Everything else is forbidden.
    const TABLE: [(State, Event, State, Action); 10] = [
        (State::Offload, Event::Onload, State::Onload, Action::None),
        (State::Onload, Event::Offload, State::Offload, Action::None),
        (State::Onload, Event::Prepare, State::Preparing, Action::LoadResident),
        (State::Onload, Event::Acquire, State::Computation, Action::TakeSlot),
        (State::Preparing, Event::Onload, State::Onload, Action::FreeResident),
        (State::Preparing, Event::Evict, State::Onload, Action::FreeResident),
        (State::Preparing, Event::Offload, State::Offload, Action::FreeResident),
        (State::Preparing, Event::Acquire, State::Computation, Action::None),
        (State::Computation, Event::ReleaseStreamed, State::Onload, Action::FreeSlot),
        (State::Computation, Event::ReleaseResident, State::Preparing, Action::None),
    ];

    #[test]
    fn every_pair_is_in_the_table_or_forbidden() {
        for state in STATES {
            for event in EVENTS {
                let expected = TABLE
                    .iter()
                    .find(|row| row.0 == state && row.1 == event)
                    .map(|row| (row.2, row.3))
                    .ok_or(ForbiddenTransition { state, event });
                assert_eq!(transition(state, event), expected);
            }
        }
    }

    #[test]
    fn memory_is_freed_exactly_where_it_was_taken() {
        // Walk every path of eight events: the places and slots held must always match the state.
        fn walk(state: State, resident: bool, slot: bool, depth: usize) {
            if depth == 0 {
                return;
            }
            for event in EVENTS {
                let Ok((next, action)) = transition(state, event) else { continue };
                // The engine sends the release that matches what was acquired.
                match event {
                    Event::ReleaseStreamed if !slot => continue,
                    Event::ReleaseResident if slot => continue,
                    _ => {}
                }
                let (resident, slot) = match action {
                    Action::None => (resident, slot),
                    Action::LoadResident => (!resident, slot),
                    Action::FreeResident => (!resident, slot),
                    Action::TakeSlot => (resident, !slot),
                    Action::FreeSlot => (resident, !slot),
                };
                match next {
                    State::Offload | State::Onload => assert!(!resident && !slot, "{event:?}"),
                    State::Preparing => assert!(resident && !slot, "{event:?}"),
                    State::Computation => assert!(resident != slot, "{event:?}"),
                }
                walk(next, resident, slot, depth - 1);
            }
        }
        walk(State::Offload, false, false, 8);
    }
}
