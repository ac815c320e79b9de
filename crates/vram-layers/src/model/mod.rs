//! Models under management, and what their code calls.

pub(crate) mod binding;
pub(crate) mod companions;
pub(crate) mod config;
pub(crate) mod converted;
pub(crate) mod encoded;
pub(crate) mod forward;
mod functions;
pub(crate) mod joined;
pub(crate) mod managed;
pub(crate) mod map;
pub(crate) mod pipeline;
pub(crate) mod run;
pub(crate) mod tensor;
pub(crate) mod tile;
