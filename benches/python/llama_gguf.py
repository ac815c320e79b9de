"""Writes a GGUF file of Llama's shape with random weights in one block type, and the tokenizer of another file.

    pip install gguf numpy
    python llama_gguf.py OUT.gguf Q4_0 TOKENIZER.gguf [WIDTH LAYERS FFN HEADS KV_HEADS]

Without sizes it has a billion parameters: 2048 16 8192 32 8. The same weights come out each time.
"""

import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

out, kind, tokenizer = sys.argv[1], Type[sys.argv[2]], sys.argv[3]
width, layers, ffn, heads, kv_heads = map(int, sys.argv[4:9] if len(sys.argv) > 4 else "2048 16 8192 32 8".split())

# Where a block has its f16 scales, and the standard deviation of its values for scales of one.
SCALES = {"Q4_0": ([0], 4.6), "Q4_1": ([0, 2], 4.6), "Q5_0": ([0], 9.2), "Q5_1": ([0, 2], 9.2), "Q8_0": ([0], 74),
          "Q2_K": ([80, 82], 9), "Q3_K": ([108], 42), "Q4_K": ([0, 2], 180), "Q5_K": ([0, 2], 360),
          "Q6_K": ([208], 1370), "IQ4_NL": ([0], 70), "IQ4_XS": ([0], 1300), "MXFP4": ([], 1)}
# Types whose second scale is added as it is: minus the middle of their quants.
MIDDLE = {"Q4_1": -7.5, "Q5_1": -15.5}
random = np.random.default_rng(1)


def blocks(rows, columns):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows * columns // elements, size), dtype=np.uint8)
    places, deviation = SCALES[kind.name]
    scale = np.float16(1 / np.sqrt(columns) / deviation)
    for number, place in enumerate(places):
        value = np.float16(MIDDLE.get(kind.name, 1) * float(scale)) if number else scale
        data[:, place : place + 2] = np.frombuffer(value.tobytes(), np.uint8)
    if kind == Type.MXFP4:
        data[:, 0] = 120
    return data.reshape(rows, -1)


def add(name, rows, columns):
    if kind not in (Type.F32, Type.F16, Type.BF16):
        return writer.add_tensor(name, blocks(rows, columns), raw_dtype=kind)
    values = random.standard_normal((rows, columns), dtype=np.float32) / np.float32(np.sqrt(columns))
    if kind == Type.F16:
        values = values.astype(np.float16)
    if kind == Type.BF16:
        values = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    writer.add_tensor(name, values, raw_dtype=kind)


writer = gguf.GGUFWriter(out, "llama")
writer.add_context_length(8192)
writer.add_embedding_length(width)
writer.add_block_count(layers)
writer.add_feed_forward_length(ffn)
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(100000.0)
writer.add_rope_dimension_count(width // heads)
for field in gguf.GGUFReader(tokenizer).fields.values():
    if field.name.startswith("tokenizer."):
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])
        if field.name == "tokenizer.ggml.tokens":
            vocabulary = len(field.contents())
writer.add_vocab_size(vocabulary)
keys = kv_heads * (width // heads)
add("token_embd.weight", vocabulary, width)
writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
for layer in range(layers):
    name = f"blk.{layer}.{{}}.weight".format
    for norm in ("attn_norm", "ffn_norm"):
        writer.add_tensor(name(norm), np.ones(width, np.float32))
    for part, rows, columns in (("attn_q", width, width), ("attn_k", keys, width), ("attn_v", keys, width),
                                ("attn_output", width, width), ("ffn_gate", ffn, width), ("ffn_up", ffn, width),
                                ("ffn_down", width, ffn)):
        add(name(part), rows, columns)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
