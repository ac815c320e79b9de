//! vram-diskmap
