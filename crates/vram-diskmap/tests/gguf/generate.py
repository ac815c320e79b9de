"""Writes the small GGUF files of this folder, and what the `gguf` package decodes from them as NAME.expected.safetensors.

    pip install gguf numpy safetensors
    python3 generate.py

The files are committed so that the tests need no Python.
"""

import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
BLOCKS = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.MXFP4]
LATER = [T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.IQ1_S, T.IQ1_M, T.TQ1_0, T.TQ2_0, T.NVFP4]
# Where a block keeps its f16 scales.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2],
    T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [], T.IQ2_XXS: [0], T.IQ2_XS: [0],
    T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0], T.IQ1_M: [], T.TQ1_0: [52], T.TQ2_0: [64], T.NVFP4: [],
}  # fmt: skip
rng = np.random.default_rng(7)


def random_blocks(kind, rows, per_row):
    """Every bit random but those of the scales, which are any finite number."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (rows * per_row, size), dtype=np.uint8)
    for at in HALVES[kind]:
        bits = rng.integers(0, 0x7C00, rows * per_row, dtype=np.uint16)
        bits |= rng.integers(0, 2, rows * per_row, dtype=np.uint16) << 15
        blocks[:, at : at + 2] = bits.view(np.uint8).reshape(-1, 2)
    if kind == T.MXFP4:
        blocks[:, 0] = rng.integers(0, 255, rows * per_row, dtype=np.uint8)
    if kind == T.IQ1_M:
        # Its scale is in four pieces, of which the last has the bits of the exponent.
        blocks[:, 55] &= 0xBF
    return blocks.reshape(rows, per_row * size)


def writer(name, **options):
    return gguf.GGUFWriter(os.path.join(HERE, name), "test", **options)


def close(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def expect(name, tensors):
    path = os.path.join(HERE, name + ".expected.safetensors")
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    os.chmod(path, 0o644)


def blocks(file, kinds, per_row):
    w = writer(file)
    expected = {}
    for kind in kinds:
        raw = random_blocks(kind, 3, per_row)
        name = f"blk.0.{kind.name}.weight"
        w.add_tensor(name, raw, raw_dtype=kind)
        expected[name] = gguf.quants.dequantize(raw, kind).astype(np.float32)
    close(w)
    expect(file, expected)


def numbers():
    w = writer("numbers.gguf")
    w.add_custom_alignment(64)
    w.add_uint8("u8", 200), w.add_int8("i8", -100), w.add_uint16("u16", 60000), w.add_int16("i16", -30000)
    w.add_uint32("u32", 1 << 31), w.add_int32("i32", -5), w.add_uint64("u64", 1 << 63), w.add_int64("i64", -(1 << 40))
    w.add_float32("f32", 0.5), w.add_float64("f64", 1e-300), w.add_bool("yes", True), w.add_string("text", "größer\n")
    w.add_array("words", ["a", "b\"c", ""]), w.add_array("list", [1, 2, 3])
    tensors = {
        "f32": rng.standard_normal((3, 4), dtype=np.float32), "f16": rng.standard_normal((2, 3)).astype(np.float16),
        "f64": rng.standard_normal((2, 2)), "i8": np.arange(-3, 3, dtype=np.int8), "i16": np.arange(5, dtype=np.int16),
        "i32": np.arange(24, dtype=np.int32).reshape(2, 3, 4), "i64": np.arange(2, dtype=np.int64) << 40,
    }  # fmt: skip
    for name, tensor in tensors.items():
        w.add_tensor(name, tensor)
    close(w)
    expect("numbers.gguf", tensors)
    with open(os.path.join(HERE, "numbers.gguf"), "rb") as file:
        data = file.read()
    # Version 2 is laid out alike.
    with open(os.path.join(HERE, "version2.gguf"), "wb") as file:
        file.write(data[:4] + (2).to_bytes(4, "little") + data[8:])


def other_types():
    """A type for which there is no decoder between two that are read."""
    w = writer("other.gguf")
    before, after = np.ones((2, 3), np.float32), np.full((1, 2), 2, np.float32)
    w.add_tensor("before", before)
    w.add_tensor("odd", rng.integers(0, 256, (1, gguf.GGML_QUANT_SIZES[T.Q8_K][1]), dtype=np.uint8), raw_dtype=T.Q8_K)
    w.add_tensor("after", after)
    close(w)
    expect("other.gguf", {"before": before, "after": after})


if __name__ == "__main__":
    blocks("blocks.gguf", BLOCKS, 2)
    numbers()
    other_types()
    rng = np.random.default_rng(8)
    # Many, so that most entries of every grid occur.
    blocks("lookup.gguf", LATER, 6)
