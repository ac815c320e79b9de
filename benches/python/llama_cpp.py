"""Measures llama.cpp on a GGUF file: what `vram bench-model` measures, beside it.

    pip install xllamacpp
    python llama_cpp.py MODEL.gguf [PROMPT_TOKENS TOKENS REPETITIONS THREADS]

Prints one JSON line for each repetition after the first, which is not counted: tokens a second of the prompt and of
decoding. The prompt is not taken from a cache, and no token ends a text.
"""

import json
import sys

import xllamacpp

path = sys.argv[1]
prompt, tokens, repetitions, threads = map(int, sys.argv[2:6] if len(sys.argv) > 2 else "512 128 3 2".split())
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = path, prompt + tokens + 64, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
for repetition in range(repetitions + 1):
    request = {"prompt": [(i * 7919 + repetition) % 40000 + 100 for i in range(prompt)], "n_predict": tokens,
               "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    timings = server.handle_completions(request)["timings"]
    if repetition:
        rates = {"prompt": timings["prompt_per_second"], "decode": timings["predicted_per_second"]}
        print(json.dumps({"model": path, **{name: round(rate, 2) for name, rate in rates.items()}}), flush=True)
