//! vram-stream
