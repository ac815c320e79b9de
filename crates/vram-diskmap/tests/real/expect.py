"""Prints expected.txt: a hash of all tensors of each real file, as PyTorch and the `gguf` package read them.

    pip install torch numpy gguf
    python3 expect.py LIGANDMPNN_FOLDER SMOLLM2_FOLDER > expected.txt

The hash is SHA-256 over, for each name in order: name, dtype, shape and bytes, the first three ended by a zero byte.
"""

import hashlib
import os
import sys

import gguf
import numpy as np
import torch

TORCH = {torch.float32: "F32", torch.int64: "I64"}


def digest(tensors):
    sha = hashlib.sha256()
    for name in sorted(tensors, key=lambda n: n.encode()):
        dtype, shape, data = tensors[name]
        for text in (name, dtype, "[" + ", ".join(map(str, shape)) + "]"):
            sha.update(text.encode() + b"\0")
        sha.update(data)
    return f"{len(tensors)} {sha.hexdigest()}"


def flatten(value, prefix, out):
    if isinstance(value, torch.Tensor):
        out[prefix] = (TORCH[value.dtype], value.shape, value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key, inner in value.items():
            flatten(inner, f"{prefix}.{key}" if prefix else str(key), out)


def decoded(path):
    out = {}
    for t in gguf.GGUFReader(path).tensors:
        data = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        out[t.name] = ("F32", data.shape, data.tobytes())
    return out


def main(ligandmpnn, smollm2):
    for name in sorted(os.listdir(ligandmpnn)):
        if name.endswith(".pt"):
            out = {}
            flatten(torch.load(os.path.join(ligandmpnn, name), map_location="cpu", weights_only=True), "", out)
            print("ligandmpnn", name, digest(out))
    for name in sorted(os.listdir(smollm2)):
        if name.endswith(".gguf"):
            print("smollm2", name, digest(decoded(os.path.join(smollm2, name))))


main(*sys.argv[1:])
