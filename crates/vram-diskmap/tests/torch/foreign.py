"""Writes foreign.pt and others of other pickle protocols, and legacy3.pt to legacy5.pt, with the same contents: weights among the objects that real checkpoints have beside them, as torch.save
would write them; and whole.pt, a module that was saved whole. Needs NumPy, and no PyTorch: the few classes that matter
are stood in for.

    pip install numpy
    python3 foreign.py
"""

import argparse
import collections
import decimal
import io
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import numpy

HERE = os.path.dirname(os.path.abspath(__file__))


def module(name, **contents):
    made = types.ModuleType(name)
    for key, value in contents.items():
        setattr(made, key, value)
        if isinstance(value, type) or callable(value):
            value.__module__, value.__qualname__ = name, key
    sys.modules[name] = made
    return made


class FloatStorage:
    pass


class Weight:
    def __init__(self, key, numbers, kind=None):
        self.key, self.numbers, self.kind = str(key), numbers, kind

    def __reduce__(self):
        args = (Stored(self.key, len(self.numbers)), 0, (len(self.numbers),), (1,), False, collections.OrderedDict())
        if self.kind:
            return sys.modules["torch._tensor"]._rebuild_from_type_v2, (rebuild_tensor_v2, self.kind, args, None)
        return rebuild_tensor_v2, args


class Stored:
    def __init__(self, key, count):
        self.key, self.count = key, count


def rebuild_tensor_v2(*args):
    raise NotImplementedError


def rebuild_from_type_v2(*args):
    raise NotImplementedError


class Callback:
    pass


class ConfigDict(dict):
    pass


class Keyword:
    def __new__(cls, *, a):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"a": Weight(5, [9.0])}


class Sub:
    pass


class Key:
    def __hash__(self):
        return 1


module("lightning")
module("torch", FloatStorage=FloatStorage)
module("torch._utils", _rebuild_tensor_v2=rebuild_tensor_v2)
module("torch._tensor", _rebuild_from_type_v2=rebuild_from_type_v2)
module("lightning.callbacks", Callback=Callback, ConfigDict=ConfigDict, Keyword=Keyword, Sub=Sub, Key=Key)


class Pickler(pickle._Pickler):
    def persistent_id(self, value):
        if isinstance(value, Stored):
            return ("storage", FloatStorage, value.key, "cpu", value.count)
        return None


def save(name, value, storages, protocol):
    out = io.BytesIO()
    Pickler(out, protocol).dump(value)
    with zipfile.ZipFile(os.path.join(HERE, name), "w") as file:
        file.writestr(zipfile.ZipInfo("a/data.pkl"), out.getvalue())
        for key, numbers in storages.items():
            file.writestr(zipfile.ZipInfo(f"a/data/{key}"), struct.pack(f"<{len(numbers)}f", *numbers))


def save_legacy(name, value, storages, protocol):
    """What torch.save writes with _use_new_zipfile_serialization=False and that pickle protocol."""
    out = io.BytesIO()
    pickle.dump(0x1950A86A20F9469CFC6C, out, protocol)
    pickle.dump(1001, out, protocol)
    pickle.dump({"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}, out, protocol)
    LegacyPickler(out, protocol).dump(value)
    keys = sorted(str(key) for key in storages)
    pickle.dump(keys, out, protocol)
    for key in keys:
        numbers = storages[int(key)]
        out.write(struct.pack("<q", len(numbers)) + struct.pack(f"<{len(numbers)}f", *numbers))
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(out.getvalue())


class LegacyPickler(pickle._Pickler):
    def persistent_id(self, value):
        if isinstance(value, Stored):
            return ("storage", FloatStorage, value.key, "cpu", value.count, None)
        return None


def contents(protocol):
    weights = {0: [1.0, 2.0], 1: [3.0], 2: [4.0], 3: [5.0, 6.0, 7.0], 4: [8.0], 5: [9.0]}
    callback = Callback()
    callback.best, callback.path, callback.again = Weight(1, weights[1]), pathlib.PurePosixPath("/a"), callback
    parsed = argparse.Namespace(lr=numpy.float64(0.5), layers=3, activation=Callback)
    random = numpy.frombuffer(bytes(range(0, 256)), dtype="<u4")
    value = {
        "state_dict": collections.OrderedDict(weight=Weight(0, weights[0]), bias=Weight(3, weights[3])),
        "callbacks": [callback, {"state": ConfigDict(ema=Weight(2, weights[2]))}],
        "hyper_parameters": parsed,
        "lr": numpy.float64(0.25), "steps": numpy.int64(-7), "ok": numpy.bool_(True), "swapped": numpy.array(3.5, ">f8")[()],
        "range": random, "fortran": numpy.asfortranarray(numpy.arange(6, dtype="<i2").reshape(2, 3)),
        "big": numpy.array([1.5, -2.5], ">f4"), "texts": numpy.array(["a", "b"]), "half": numpy.array([0.5], "<f2"),
        "objects": numpy.array([{}, None], dtype=object), "wide": numpy.array([1j], "<c16"), "flags": numpy.array([True, False]),
        "grid": numpy.array(7, "u1"), "decimal": decimal.Decimal("1.5"), "set": {1, 2}, "frozen": frozenset([3]),
        "table": {None: Weight(4, weights[4]), (1, "a"): 5, 1.5: "x", b"k": 2, Key(): Weight(4, weights[4])},
        "sub": Weight(4, weights[4], Sub), "counter": collections.Counter("aab"), "path": pathlib.PurePosixPath("/b"),
        "default": collections.defaultdict(list, a=1), "ints": [1 << 80], "mixed": [1, Callback],
    }  # fmt: skip
    if protocol > 3:
        value["keyword"] = Keyword(a=1)
    else:
        del weights[5]
    return value, weights


def main():
    for name, protocol in (("foreign.pt", 2), ("foreign4.pt", 4), ("foreign5.pt", 5)):
        save(name, *contents(protocol), protocol)
    for name, protocol in (("legacy3.pt", 3), ("legacy4.pt", 4), ("legacy5.pt", 5)):
        value, weights = contents(protocol)
        # Every storage is there, whatever refers to it.
        save_legacy(name, value, weights, protocol)
    whole = Callback()
    whole._parameters = {"weight": Weight(0, [1.0]), "bias": Weight(1, [2.0])}
    save("whole.pt", whole, {0: [1.0], 1: [2.0]}, 2)


if __name__ == "__main__":
    main()
