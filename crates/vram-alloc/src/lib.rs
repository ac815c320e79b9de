//! vram-alloc
