//! vram-models
