//! The engine and the layers: budgets, faults, departures from the trace, lifetimes.

mod budget;
mod chain;
mod common;
mod departures;
mod faults;
mod gather;
mod lifetime;
mod source;
