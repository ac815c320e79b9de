"""Checks what cases.txt says of the tensors in the PyTorch files of this folder, with Python alone: tensors and arrays
are put together from their storages by stand-ins for PyTorch's functions, and compared with what PyTorch itself read
of some of these files (expect.pkl).

    python3 expect.py

The test `cases` compares cases.txt with what the crate reads: `=` are tensors, `!` tensors that cannot be read, `~` what
was left unread, `x` is why a file is refused, and `?` what is wrong with it where `lenient` reads it all the same.
"""

import io
import os
import pickle
import struct
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
STORAGES = {
    "Float": ("F32", 4), "Double": ("F64", 8), "Half": ("F16", 2), "BFloat16": ("BF16", 2), "Long": ("I64", 8),
    "Int": ("I32", 4), "Short": ("I16", 2), "Char": ("I8", 1), "Byte": ("U8", 1), "Bool": ("BOOL", 1),
    "ComplexFloat": ("C64", 8), "ComplexDouble": ("C128", 16),
}  # fmt: skip
NUMPY = {"f8": ("F64", 8), "f4": ("F32", 4), "i8": ("I64", 8)}


class Tensor:
    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, list(shape), data

    def __repr__(self):
        return f"{self.dtype} {self.shape} {self.data.hex() or '-'}".replace(", ", ",")


class Unknown:
    def __init__(self, *args, **named):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass


def rebuilt(storage, offset, shape, strides, *rest):
    dtype, size, data = storage
    if data is None:
        return Unknown()
    out = bytearray()

    def walk(at, shape, strides):
        if not shape:
            out.extend(data[at * size : at * size + size])
            return
        for i in range(shape[0]):
            walk(at + i * strides[0], shape[1:], strides[1:])

    count = 1
    for extent in shape:
        count *= extent
    if count > 1 << 16:
        return Unknown()
    walk(offset, list(shape), list(strides))
    if len(out) != count * size:
        return Unknown()
    return Tensor(dtype, shape, bytes(out))


class Array(Tensor):
    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        _, shape, dtype, _, data = state
        super().__init__(NUMPY[dtype.code][0], shape, data)


class DType:
    def __init__(self, code, *rest):
        self.code = code

    def __setstate__(self, state):
        pass


class Unpickler(pickle.Unpickler):
    def __init__(self, file, storage):
        super().__init__(file)
        self.storage = storage

    def find_class(self, module, name):
        known = {
            "_rebuild_tensor_v2": rebuilt,
            "_rebuild_tensor": rebuilt,
            "_rebuild_parameter": lambda data, *rest: data,
            "_rebuild_device_tensor_from_cpu_tensor": lambda data, *rest: data,
            "_rebuild_device_tensor_from_numpy": lambda data, *rest: data,
            "_rebuild_from_type_v2": lambda f, kind, args, state: f(*args) if kind == "Buffer" else Unknown(),
        }
        if name in known:
            return known[name]
        if name.endswith("Storage"):
            return STORAGES[name[: -len("Storage")]]
        if (module, name) in (("collections", "OrderedDict"), ("_codecs", "encode"), ("collections", "defaultdict")):
            return super().find_class(module, name)
        if (module, name) == ("__builtin__", "dict"):
            return dict
        if name == "Buffer":
            return "Buffer"
        return {"_reconstruct": Array, "ndarray": "ndarray", "dtype": DType}.get(name, Unknown)

    def persistent_load(self, id):
        return self.storage(*id[1:])


def flatten(value, prefix, depth, out):
    if isinstance(value, Tensor):
        out[prefix if depth else "tensor"] = value
    elif isinstance(value, dict):
        for key, inner in value.items():
            flatten(inner, f"{prefix}.{key}" if depth else str(key), depth + 1, out)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            flatten(inner, f"{prefix}.{i}" if depth else str(i), depth + 1, out)


def archive(file):
    zipped = zipfile.ZipFile(file)
    pickled = next(name for name in zipped.namelist() if name.endswith("data.pkl"))
    prefix = pickled[: -len("data.pkl")]

    def storage(kind, key, device, count, *rest):
        return kind + (None if device == "meta" else zipped.read(f"{prefix}data/{key}"),)

    return Unpickler(io.BytesIO(zipped.read(pickled)), storage).load()


def legacy(file):
    data = open(file, "rb").read()
    stream = io.BytesIO(data)
    for _ in range(3):
        pickle.load(stream)
    begin = stream.tell()
    found = {}

    def root(kind, key, device, count, view=None):
        found[key] = kind
        return kind + (b"",)

    Unpickler(stream, root).load()
    contents = {}
    for key in pickle.load(stream):
        (count,) = struct.unpack("<q", stream.read(8))
        contents[key] = stream.read(count * found[key][1])

    def storage(kind, key, device, count, view=None):
        _, at, length = view or (None, 0, count)
        return kind + (contents[key][at * kind[1] : (at + length) * kind[1]],)

    stream.seek(begin)
    return Unpickler(stream, storage).load()


def rows():
    """What cases.txt says of each file."""
    rows, name = {}, None
    for line in open(os.path.join(HERE, "cases.txt"), encoding="utf-8").read().split("\n"):
        if line.startswith("    "):
            rows[name].append(line.strip())
        elif line and not line.startswith("#"):
            name = line
            rows[name] = []
    return rows


def check(name, rows):
    file = os.path.join(HERE, name)
    folder = os.path.dirname(file)
    tensors, expected = {}, {}
    flatten(archive(file) if zipfile.is_zipfile(file) else legacy(file), "", 0, tensors)
    if os.path.exists(os.path.join(folder, "expect.pkl")):
        expected = pickle.load(open(os.path.join(folder, "expect.pkl"), "rb"))
    for key, (dtype, shape, data) in expected.items():
        if key in tensors:
            assert repr(tensors[key]) == repr(Tensor(dtype, shape, data)), (name, key)
    ours = sorted(row for row in rows if row.startswith("=") and not row.endswith(" bytes"))
    theirs = sorted(f'= "{key}" {tensor!r}' for key, tensor in tensors.items())
    assert ours == theirs, (name, ours, theirs)


def main():
    checked = 0
    for name, said in rows().items():
        if name.endswith(".pt") and not any(row.startswith("x") for row in said):
            check(name, said)
            checked += 1
    print(f"{checked} files are as cases.txt says")


if __name__ == "__main__":
    main()
