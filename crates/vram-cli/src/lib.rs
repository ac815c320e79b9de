//! vram-cli
