//! The engine and the layers: budgets, faults, departures from the trace, lifetimes.

#![allow(clippy::unwrap_used)] // a test's failure is a panic
#![allow(unreachable_pub)] // modules of one test binary

mod blocks;
mod budget;
mod calibration;
mod capacity;
mod chain;
mod common;
mod curves;
mod departures;
mod faults;
mod files;
mod gather;
mod inputs;
mod joined;
mod lifetime;
mod pipeline;
mod plans;
mod scaled;
mod schedule;
mod sessions;
mod sim_bugs;
mod sim_common;
mod sim_faults;
mod sim_random;
mod source;
mod tiers;
mod ties;
mod trace;
