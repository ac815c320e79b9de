"""Writes smollm2_tokens.json: a thousand mixed texts and the ids that llama.cpp gives them.

    python -m venv venv && venv/bin/pip install xllamacpp
    venv/bin/python make_tokens.py MODEL.gguf smollm2_tokens.json
"""
import json, random, sys, urllib.request, xllamacpp as x
R = random.Random(7)
words = "the of and naïve Straße café über Ωmega привет мир 東京 漢字かな交じり文 안녕하세요 你好世界 مرحبا שלום नमस्ते ไทย e\u0301 ﬁ ½ ² ™ … – — “q” don't I'LL we've x_y camelCase HTTPServer 3.14 1e-9 0xFF 1,000,000 12345678 v2.0.1 a/b/c.rs foo@bar.com #tag".split(" ")
code = ["fn main() {\n    println!(\"{}\", x);\n}\n", "def f(x):\n\treturn x**2\n", "for (int i=0;i<n;++i) { a[i]+=b[i]; }", "SELECT * FROM t WHERE id = 42;\r\n", "<div class=\"a\">&nbsp;</div>", "{\"k\": [1, 2.5, null]}", "\\begin{equation} x^2 \\end{equation}", "if a&&b||!c{d}", "    \t  indented", "x = y  # comment", "#!/bin/sh\nset -eu\n"]
emoji = ["😀", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "🏳️‍🌈", "🤷‍♂️", "①", "𝔘𝔫𝔦", "𓀀"]
ctrl = ["\x01", "\x07", "\x1b[31m", "\x7f", "\u200b", "\u200d", "\ufeff", "\u00a0", "\u3000", "\x0b", "\x0c", "\u2028", "\u0085"]
space = [" ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "        "]
special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\n", "<|not_special|>", "<s>", "[INST]"]
def piece():
    k = R.random()
    if k < .4: return R.choice(words)
    if k < .52: return R.choice(code)
    if k < .64: return R.choice(emoji)
    if k < .72: return R.choice(ctrl)
    if k < .76: return R.choice(special)
    if k < .84: return str(R.randrange(10 ** R.randrange(1, 12)))
    if k < .92: return "".join(chr(R.choice([R.randrange(32, 127), R.randrange(0xa1, 0x250), R.randrange(0x400, 0x500), R.randrange(0x4e00, 0x9fff), R.randrange(0xac00, 0xd7a3), R.randrange(0x1f300, 0x1f640)])) for _ in range(R.randrange(1, 8)))
    return R.choice(["!", "?", "...", "--", "'s", "''", "\"", "(", ")", "%", "$", "€", "¥"])
texts = set()
while len(texts) < 1000:
    t = ""
    for _ in range(R.randrange(1, 9)):
        t += piece() + (R.choice(space) if R.random() < .6 else "")
    texts.add(t)
texts = sorted(texts)
p = x.CommonParams()
p.model.path, p.n_ctx, p.warmup, p.port = sys.argv[1], 128, False, 0
server = x.Server(p)
with open(sys.argv[2], "w") as out:
    lines = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": False}).encode()
        q = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        ids = json.load(urllib.request.urlopen(q))["tokens"]
        lines.append(json.dumps([text, ids], ensure_ascii=False, separators=(",", ":")))
    out.write("[\n" + ",\n".join(lines) + "\n]\n")
