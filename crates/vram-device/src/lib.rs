//! vram-device
