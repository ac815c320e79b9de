//! Decoders of the Llama family: Llama 2 and 3, Mistral, Qwen 2 and 3, SmolLM, from Hugging Face's checkpoints or GGUF.
//!
//! [`Config`] is read from a checkpoint, [`Llama`] is the model, a [`Cache`] holds the keys and values of one
//! sequence, and a [`Batch`] continues several sequences together, so that a streamed weight serves all of
//! them.

mod batch;
mod cache;
mod config;
mod gguf;
mod json;
mod model;
mod rotary;

pub use batch::{Batch, BatchSize};
pub use cache::Cache;
pub use config::Config;
pub use gguf::from_gguf_name;
pub use model::{Llama, Piece};
pub use rotary::Rotary;
