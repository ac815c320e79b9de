//! Casts between dtypes over byte slices, as PyTorch's `.to(dtype)` rounds.
