"""Writes the small PyTorch files of this folder, and what PyTorch itself reads from them as NAME.expected.safetensors.

    pip install torch numpy safetensors
    python3 generate.py

The files are committed so that the tests need no Python.
"""

import collections
import os
import struct
import zipfile

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def flatten(value, prefix, out):
    if isinstance(value, torch.Tensor):
        out[prefix or "tensor"] = value.detach()
    elif isinstance(value, dict):
        for key, inner in value.items():
            flatten(inner, f"{prefix}.{key}" if prefix else str(key), out)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            flatten(inner, f"{prefix}.{i}" if prefix else str(i), out)


def unwrapped(value):
    if isinstance(value, dict) and len(value) == 1:
        for key in ("state_dict", "module", "model_state"):
            if key in value:
                return value[key]
    return value


def expect(name):
    # Not weights_only, which does not read every pickle protocol: these files are our own.
    loaded = torch.load(os.path.join(HERE, name), map_location="cpu", weights_only=False)
    tensors = {}
    flatten(unwrapped(loaded), "", tensors)
    # Without sharing and without strides, since safetensors has neither.
    tensors = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    save_expected(tensors, name)


def save_expected(tensors, name):
    path = os.path.join(HERE, name + ".expected.safetensors")
    save_file(tensors, path)
    os.chmod(path, 0o644)


def save(name, value, **options):
    torch.save(value, os.path.join(HERE, name), **options)
    expect(name)


def noise(seed, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    count = 1
    for extent in shape:
        count *= extent
    if dtype == torch.bool:
        return (torch.randint(0, 2, (count,), generator=generator) == 1).reshape(shape)
    if dtype.is_floating_point or dtype.is_complex:
        real = torch.randn(count, generator=generator)
        if dtype.is_complex:
            real = torch.complex(real, torch.randn(count, generator=generator))
        if dtype == torch.float8_e8m0fnu:
            real = real.abs()
        return real.to(dtype).reshape(shape)
    return torch.randint(0, 120, (count,), generator=generator).to(dtype).reshape(shape)


DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


def dtypes(of):
    return {str(d).removeprefix("torch."): noise(i, 3, 5, dtype=d) for i, d in enumerate(of)}


def layouts():
    base = noise(1, 7, 9)
    deep = noise(2, 4, 5, 6)
    row = noise(3, 1, 6)
    tied = noise(4, 8, 8)
    square = noise(5, 8, 8)
    return collections.OrderedDict(
        plain=base, transposed=base.t(), rows=base[2:5], columns=base[:, 3:6], every_other=base[::2, 1::3],
        permuted=deep.permute(2, 0, 1), channels_last=noise(6, 2, 3, 4, 5).to(memory_format=torch.channels_last),
        expanded=row.expand(5, 6), expanded_scalar=noise(7).expand(3, 2), diagonal=square.diagonal(),
        overlapping=torch.as_strided(base, (5, 4), (2, 1), 3), scalar=noise(8), empty=torch.zeros(0, 4),
        empty_inside=torch.zeros(3, 0, 2), one=noise(9, 1, 1, 3).transpose(0, 2), tied_a=tied, tied_b=tied,
        tied_view=tied.view(64), square=square, square_t=square.t(), parameter=torch.nn.Parameter(noise(10, 2, 3)),
        half_t=noise(11, 6, 4, dtype=torch.float16).t(), bytes_t=noise(12, 5, 3, dtype=torch.uint8).t(),
        complex_t=noise(13, 3, 2, dtype=torch.complex64).t(), double_t=noise(14, 3, 2, dtype=torch.float64).t(),
    )  # fmt: skip


def nested():
    return {
        "model": {"layers": [{"w": noise(1, 2, 2)}, {"w": noise(2, 2, 2)}], "pair": (noise(3, 1), noise(4, 1))},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": noise(5, 2, 2)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "amsgrad": False, "name": None}]},
        "epoch": 7, "note": "größer \"quoted\"\n", "large": 1 << 40, "negative": -3, "shape": torch.Size([2, 3]),
    }  # fmt: skip


def swap_bytes(name, out):
    """The same archive as a big-endian machine would have written it: only for 4-byte numbers."""
    with zipfile.ZipFile(os.path.join(HERE, name)) as old, zipfile.ZipFile(os.path.join(HERE, out), "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in info.filename:
                count = len(data) // 4
                data = struct.pack(f">{count}I", *struct.unpack(f"<{count}I", data))
            new.writestr(info.filename, data)


def main():
    torch.manual_seed(0)
    save("dtypes.pt", dtypes(DTYPES))
    save("layouts.pt", layouts())
    save("nested.ckpt", nested())
    save("wrapped.pth", {"state_dict": {"a.weight": noise(1, 2, 3)}})
    save("lone.pt", noise(1, 4, 2).t())
    save("list.pt", [noise(1, 2), noise(2, 3)])
    save("module.bin", torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)).state_dict())
    save("protocol4.pt", nested(), pickle_protocol=4)
    old = {"_use_new_zipfile_serialization": False}
    save("legacy_dtypes.pt", dtypes([d for d in DTYPES if d.itemsize and not str(d).startswith("torch.uint") and "float8" not in str(d) or d == torch.uint8]), **old)
    save("legacy_layouts.pt", layouts(), **old)
    save("legacy_nested.pth", nested(), **old)
    # Tensors that have no plain bytes, beside one that has.
    odd = {
        "plain": noise(1, 2, 2), "sparse": noise(2, 3, 3).to_sparse(), "complex128": noise(3, 2).to(torch.complex128),
        "meta": torch.empty(2, 2, device="meta"), "conjugated": noise(4, 3, dtype=torch.complex64).conj(),
        "quantised": torch.quantize_per_tensor(noise(5, 4), 0.1, 3, torch.qint8),
    }  # fmt: skip
    torch.save(odd, os.path.join(HERE, "unreadable.pt"))
    save_expected({"plain": odd["plain"]}, "unreadable.pt")
    swapped = {"a": noise(1, 3, 4), "b": noise(2, 4, 3).t(), "c": noise(3, 2, dtype=torch.complex64)}
    torch.save(swapped, os.path.join(HERE, "little.pt"))
    swap_bytes("little.pt", "big_endian.pt")
    os.remove(os.path.join(HERE, "little.pt"))
    save_expected({k: v.contiguous() for k, v in swapped.items()}, "big_endian.pt")


if __name__ == "__main__":
    main()
