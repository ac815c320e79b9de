"""Compares the likeliest next tokens of `vram generate` and llama.cpp on one GGUF file.

    pip install xllamacpp
    python llama_parity.py MODEL.gguf target/release/vram

Prints how many of the 64 likeliest tokens both name, and the largest difference of their log-probabilities: between
llama.cpp with the prompt in one batch and token by token, which is its own spread, and between it and us.
"""

import json
import subprocess
import sys

IDS = [i * 7919 % 40000 + 100 for i in range(48)]


def llama(path, batch):
    """In a process of its own: a second server in one process does not start."""
    script = f"""
import json, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.n_ubatch, params.n_batch = {path!r}, 512, 1, {batch}, 512
if {batch} == 1:
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
request = {{"prompt": {IDS}, "n_predict": 1, "temperature": 0, "n_probs": 64, "cache_prompt": False, "ignore_eos": True}}
answer = xllamacpp.Server(params).handle_completions(request)
print("@" + json.dumps(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]), flush=True)
"""
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    found = next(line[1:] for line in lines if line.startswith("@"))
    return {token["id"]: token["logprob"] for token in json.loads(found)}


def ours(path, vram, activations):
    command = [vram, "generate", "--model", path, "--ids", ",".join(map(str, IDS)), "--max-tokens", "1", "--logprobs", "64",
               "--json", "--activations", activations, "--budget", "4GiB"]
    document = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {token["id"]: token["logprob"] for token in document["logprobs"][0]}


def difference(a, b):
    both = a.keys() & b.keys()
    return f"{len(both)} of 64, {max(abs(a[token] - b[token]) for token in both):.4f}"


path, vram = sys.argv[1:3]
whole, single, exact, q8 = llama(path, 512), llama(path, 1), ours(path, vram, "exact"), ours(path, vram, "q8")
print(f"{path}: llama.cpp with itself {difference(whole, single)}; q8 with it {difference(q8, whole)}; "
      f"exact with it {difference(exact, whole)}; q8 with exact {difference(q8, exact)}")
