//! The models against what PyTorch computed; `golden/` says how.

mod common;
mod controlnet;
mod minilm;
