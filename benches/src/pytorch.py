"""The same model in PyTorch, fully resident: prints the seconds of each pass. Arguments: tokens, blocks, width, rounds."""
import sys
import time

import torch
from torch.nn.functional import gelu

tokens, blocks, width, rounds = map(int, sys.argv[1:5])
dtype = torch.bfloat16


def linear(inputs, outputs):
    layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs, dtype=dtype)
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5)
    return layer


def rms(x, weight):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(dtype) * weight


ones = torch.ones(width, dtype=dtype)
img_in = linear(64, width)
layers = [(linear(width, width), linear(width, width)) for _ in range(blocks)]
img = torch.randn(1, tokens, width).to(dtype)
conditioning = torch.randn(1, tokens, 64).to(dtype)
with torch.no_grad():
    for i in range(rounds + 1):
        start = time.perf_counter()
        y, z = img_in(conditioning), img
        for first, second in layers:
            z = z + second(gelu(first(rms(z, ones) + rms(y, ones))))
        if i > 0:
            print(time.perf_counter() - start)
