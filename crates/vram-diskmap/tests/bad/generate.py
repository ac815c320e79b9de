#!/usr/bin/env python3
"""Writes the malformed files of this folder and manifest.txt. Run it here after a change; the files are committed."""

import json
import os
import shutil
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
rows = []


def put(name, data):
    path = os.path.join(HERE, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def row(name, kind, tensor, says, wrong):
    rows.append(" | ".join([name, kind, tensor or "-", says, wrong]))


def raw(name, data, kind, tensor, says, wrong):
    put(name + ".safetensors", data)
    row(name + ".safetensors", kind, tensor, says, wrong)


def head(name, header, data, kind, tensor, says, wrong, length=None):
    header = header if isinstance(header, bytes) else header.encode()
    raw(name, struct.pack("<Q", len(header) if length is None else length) + header + data, kind, tensor, says, wrong)


def t(dtype="F32", shape="[1]", offsets="[0,4]"):
    return '{"dtype":"%s","shape":%s,"data_offsets":%s}' % (dtype, shape, offsets)


def one(name, tensor, data, kind, says, wrong):
    head(name, '{"a":%s}' % tensor, data, kind, "a", says, wrong)


F = b"\0" * 4
I, T, U = "Invalid", "Truncated", "Unsupported"

# The length
raw("empty-file", b"", T, None, "too few", "no bytes at all")
raw("seven-bytes", b"\0" * 7, T, None, "too few", "shorter than the length field")
raw("length-beyond-file", struct.pack("<Q", 100) + b"{}", T, None, "the file ends at byte 10", "the header is longer than the file")
raw("length-too-large", struct.pack("<Q", 100_000_001) + b"{}", I, None, "the format allows", "one byte over the format's limit")
raw("length-u64-max", b"\xff" * 8 + b"{}", I, None, "the format allows", "a length that would overflow")
raw("length-99-million", struct.pack("<Q", 99_000_000) + b"{}", T, None, "the file ends", "claims memory that the file does not have")
raw("length-zero", struct.pack("<Q", 0), I, None, "does not begin with '{'", "an empty header")
raw("length-one-short", struct.pack("<Q", 1) + b"{}", I, None, "a string", "the length ends before the closing brace")

# The JSON
head("leading-blank", ' {"a":%s}' % t(), F, I, None, "does not begin with '{'", "a blank before the brace")
head("leading-bom", b"\xef\xbb\xbf{}", b"", I, None, "does not begin with '{'", "a byte order mark")
head("array-header", "[]", b"", I, None, "does not begin with '{'", "an array instead of an object")
head("trailing-text", '{"a":%s} x' % t(), F, I, None, "bytes other than spaces", "text after the brace")
head("trailing-newline", '{"a":%s}\n' % t(), F, I, None, "bytes other than spaces", "padding other than spaces")
head("trailing-zeros", ('{"a":%s}' % t()).encode() + b"\0\0", F, I, None, "bytes other than spaces", "padding of zeros")
head("two-objects", '{"a":%s}{}' % t(), F, I, None, "bytes other than spaces", "a second object")
head("not-utf8", b'{"\xff":' + t().encode() + b"}", F, I, None, "not UTF-8", "a name that is not UTF-8")
head("overlong-utf8", b'{"\xc0\xaf":' + t().encode() + b"}", F, I, None, "not UTF-8", "an overlong encoding")
head("cut-in-name", '{"a', b"", I, None, "ends inside a string", "ends inside a name")
head("cut-in-object", '{"a":{"dtype":"F32"', b"", I, "a", "the JSON ends", "ends inside a tensor")
head("missing-colon", '{"a" %s}' % t(), F, I, None, "':'", "no colon")
head("comma-at-end", '{"a":%s,}' % t(), F, I, None, "a string", "a comma before the brace")
head("no-comma", '{"a":%s "b":%s}' % (t(), t()), F, I, None, "',' or '}'", "no comma between tensors")
head("single-quotes", "{'a':%s}" % t(), F, I, None, "a string", "single quotes")
head("comment", '{/*x*/"a":%s}' % t(), F, I, None, "a string", "a comment")
head("control-in-name", '{"a\nb":%s}' % t(), F, I, None, "control character", "a line break in a name")
head("unknown-escape", '{"a\\x41":%s}' % t(), F, I, None, "unknown escape", "\\x is no escape of JSON")
head("lone-surrogate", '{"\\ud83d":%s}' % t(), F, I, None, "lone surrogate", "half a pair")
head("reversed-surrogates", '{"\\ude00\\ud83d":%s}' % t(), F, I, None, "lone surrogate", "a pair the wrong way round")
head("short-unicode-escape", '{"\\u12":%s}' % t(), F, I, None, "four hexadecimal", "two digits where four belong")
head("deep-nesting", '{"a":' + "[" * 5000, b"", I, "a", "an object", "nested deeper than any stack")

# Tensors
head("duplicate-name", '{"a":%s,"a":%s}' % (t(), t(offsets="[4,8]")), F * 2, I, "a", "twice", "the same name twice")
head("duplicate-name-escaped", '{"a":%s,"\\u0061":%s}' % (t(), t(offsets="[4,8]")), F * 2, I, "a", "twice", "the same name twice, once escaped")
one("tensor-null", "null", b"", I, "an object", "null instead of a tensor")
one("tensor-array", '["F32",[1],[0,4]]', F, I, "an object", "an array instead of a tensor")
one("unknown-field", t()[:-1] + ',"extra":1}', F, I, "unknown field", "a field that the format has not")
one("missing-dtype", '{"shape":[1],"data_offsets":[0,4]}', F, I, "dtype is missing", "no dtype")
one("missing-shape", '{"dtype":"F32","data_offsets":[0,4]}', F, I, "shape is missing", "no shape")
one("missing-offsets", '{"dtype":"F32","shape":[1]}', F, I, "data_offsets is missing", "no offsets")
one("duplicate-field", '{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}', F, I, "twice", "a field twice")
one("unknown-dtype", t("F33"), F, I, "unknown dtype \"F33\"", "a dtype that does not exist")
one("lower-case-dtype", t("f32"), F, I, "unknown dtype", "dtypes are upper case")
one("dtype-number", '{"dtype":1,"shape":[1],"data_offsets":[0,4]}', F, I, "a string", "a dtype that is a number")
one("shape-negative", t(shape="[-1]"), F, I, "not negative", "a negative extent")
one("shape-fraction", t(shape="[1.0]"), F, I, "fraction", "a fraction")
one("shape-exponent", t(shape="[1e0]"), F, I, "fraction", "an exponent")
one("shape-string", t(shape='["1"]'), F, I, "whole number", "an extent that is a string")
one("shape-leading-zero", t(shape="[01]"), F, I, "begins with 0", "an extent with a leading zero")
one("shape-object", t(shape="{}"), F, I, "an array", "a shape that is an object")
one("shape-too-large", t(shape="[18446744073709551616]"), F, I, "64 bits", "an extent over 64 bits")
one("shape-overflow", t(shape="[4294967296,4294967296]"), F, I, "overflows", "elements that overflow")
one("size-overflow", t(shape="[4611686018427387904]"), F, I, "overflows", "bytes that overflow")
one("zero-after-overflow", t(shape="[4294967296,4294967296,0]", offsets="[0,0]"), b"", I, "overflows", "an overflow that a zero would hide")
one("offsets-one", t(offsets="[0]"), F, I, "1 numbers", "one offset")
one("offsets-three", t(offsets="[0,4,4]"), F, I, "3 numbers", "three offsets")
one("offsets-negative", t(offsets="[-4,0]"), F, I, "not negative", "a negative offset")
one("offsets-overflow", t(offsets="[0,18446744073709551617]"), F, I, "64 bits", "an offset over 64 bits")
one("offsets-reversed", t(offsets="[4,0]"), F, I, "before they begin", "ends before it begins")
one("size-too-small", t(offsets="[0,3]"), F[:3], I, "span 3 bytes", "three bytes for an F32")
one("size-too-large", t(offsets="[0,8]"), F * 2, I, "span 8 bytes", "eight bytes for an F32")
one("size-claimed", t(shape="[250000000000]", offsets="[0,1000000000000]"), F, T, "of which the file has 4", "claims a terabyte")
one("offsets-near-max", t("U8", "[4]", "[18446744073709551611,18446744073709551615]"), F, I, "hole", "offsets at the end of 64 bits")
one("half-byte", t("F4", "[3]", "[0,2]"), F[:2], I, "whole number of bytes", "three half bytes")
one("three-quarters", t("F6_E2M3", "[2]", "[0,2]"), F[:2], I, "whole number of bytes", "twelve bits")
one("hole-at-start", t(offsets="[4,8]"), F * 2, I, "hole", "bytes before the first tensor")
head("hole", '{"a":%s,"b":%s}' % (t(), t(offsets="[8,12]")), F * 3, I, "b", "hole", "bytes between tensors")
head("overlap", '{"a":%s,"b":%s}' % (t(), t(offsets="[2,6]")), F * 2, I, "b", "overlap", "two tensors share bytes")
head("same-bytes", '{"a":%s,"b":%s}' % (t(), t()), F, I, "b", "overlap", "two names for the same bytes")
head("empty-inside", '{"a":%s,"b":%s}' % (t(), t(shape="[0]", offsets="[2,2]")), F, I, "b", "overlap", "an empty tensor inside another")
one("truncated-data", t(), F[:3], T, "of which the file has 3", "the last byte is missing")
head("extra-data", '{"a":%s}' % t(), F + b"x", I, None, "the tensors end at byte 4", "a byte after the last tensor")
head("data-without-tensors", "{}", b"x", I, None, "the tensors end at byte 0", "data that belongs to no tensor")

# Metadata
head("metadata-string", '{"__metadata__":"x"}', b"", I, None, "not an object", "metadata that is a string")
head("metadata-null", '{"__metadata__":null}', b"", I, None, "not an object", "metadata that is null")
head("metadata-number", '{"__metadata__":{"k":1}}', b"", I, None, "no string", "a value that is a number")
head("metadata-nested", '{"__metadata__":{"k":{}}}', b"", I, None, "no string", "a value that is an object")
head("metadata-twice", '{"__metadata__":{},"__metadata__":{}}', b"", I, None, "twice", "two of them")
head("metadata-key-twice", '{"__metadata__":{"k":"1","k":"2"}}', b"", I, None, "\"k\" twice", "a key twice")
head("metadata-is-tensor", '{"__metadata__":%s}' % t(), F, I, None, "no string", "a tensor of the reserved name")

# Indexes, each with its shards
A = struct.pack("<Q", len('{"a":%s}' % t())) + ('{"a":%s}' % t()).encode() + F
B = A.replace(b'"a"', b'"b"')


def index(name, text, kind, tensor, says, wrong, shards=(("1.safetensors", A), ("2.safetensors", B))):
    folder = "index-" + name
    text = text if isinstance(text, (str, bytes)) else json.dumps({"metadata": {}, "weight_map": text})
    put(folder + "/model.safetensors.index.json", text if isinstance(text, bytes) else text.encode())
    for shard, data in shards:
        put(folder + "/" + shard, data)
    row(folder, kind, tensor, says, wrong)


GOOD = {"a": "1.safetensors", "b": "2.safetensors"}
index("empty", "", I, None, "an object", "an empty file")
index("array", "[]", I, None, "an object", "an array")
index("not-utf8", b'{"\xff":1}', I, None, "not UTF-8", "not UTF-8")
index("cut", '{"weight_map":{"a":"1.safetensors"', I, None, "the JSON ends", "ends too early")
index("trailing", '{"weight_map":{}} x', I, None, "bytes after", "text after the brace")
index("no-weight-map", '{"metadata":{}}', I, None, "no weight_map", "no map at all")
index("weight-map-array", '{"weight_map":[]}', I, None, "not an object", "a map that is an array")
index("weight-map-twice", '{"weight_map":{},"weight_map":{}}', I, None, "twice", "two maps")
index("key-twice", '{"metadata":{},"metadata":{},"weight_map":{}}', I, None, "twice", "a key twice")
index("tensor-twice", '{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}', I, "a", "twice", "a tensor in two files")
index("file-number", '{"weight_map":{"a":1}}', I, "a", "not a string", "a file that is a number")
index("absolute", {**GOOD, "b": "/etc/passwd"}, I, "b", "not inside", "an absolute path")
index("parent", {**GOOD, "b": "../good.safetensors"}, I, "b", "not inside", "a path to the folder above")
index("parent-inside", {**GOOD, "b": "x/../../2.safetensors"}, I, "b", "not inside", "a path that climbs on the way")
index("empty-path", {**GOOD, "b": ""}, I, "b", "not inside", "no path")
index("backslash", {**GOOD, "b": "..\\2.safetensors"}, I, "b", "not inside", "a path of another system")
index("missing-shard", {**GOOD, "c": "3.safetensors"}, "NotFound", None, "", "a file that does not exist")
index("missing-tensor", {**GOOD, "c": "2.safetensors"}, I, "c", "does not have it", "a tensor that its file has not")
index("unknown-tensor", {"a": "1.safetensors"}, I, "b", "does not name", "a tensor that the index has not",
      (("1.safetensors", struct.pack("<Q", 2 + len('"a":%s,"b":%s' % (t(), t(offsets="[4,8]"))))
        + ('{"a":%s,"b":%s}' % (t(), t(offsets="[4,8]"))).encode() + F * 2),))
index("wrong-shard", {"a": "2.safetensors", "b": "1.safetensors"}, I, "a", "is in \"2.safetensors\"", "two files mixed up")
index("in-both-shards", GOOD, I, "a", "is in \"1.safetensors\"", "a tensor in two files", (("1.safetensors", A), ("2.safetensors", A)))
index("bad-shard", GOOD, I, None, "does not begin", "a file that is no safetensors",
      (("1.safetensors", A), ("2.safetensors", struct.pack("<Q", 2) + b"[]")))
index("two-indexes", GOOD, I, None, "2 indexes", "a folder with two indexes",
      (("1.safetensors", A), ("2.safetensors", B), ("other.index.json", b"{}")))
index("deep-nesting", '{"metadata":' + "[" * 5000, I, None, "nested", "nested deeper than any stack")

with open(os.path.join(HERE, "manifest.txt"), "w") as f:
    f.write("# path | kind of the error | tensor it names | words of its message | what is wrong\n")
    f.write("\n".join(rows) + "\n")
