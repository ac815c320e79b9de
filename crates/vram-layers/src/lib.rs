//! vram-layers
