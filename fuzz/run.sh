#!/bin/sh
# Runs one fuzz target for some seconds under the address sanitizer: run.sh TARGET [SECONDS]
set -eu
target=$1
seconds=${2:-600}
cd "$(dirname "$0")"
tests=../crates/vram-diskmap/tests
corpus=target/corpus/$target
mkdir -p "$corpus"
case $target in
    safetensors) cp "$tests"/bad/*.safetensors "$corpus" ;;
    index) for file in "$tests"/bad/*/*.index.json; do cp "$file" "$corpus/$(basename "$(dirname "$file")")"; done ;;
    zip) cp "$tests"/torch/*.p* "$tests"/torch/*.bin "$tests"/torch/*.ckpt "$corpus"; rm -f "$corpus"/*.py "$corpus"/*.safetensors ;;
    pickle) for file in "$tests"/torch/*.p*t "$tests"/torch/*.ckpt "$tests"/cases/*/*.pt; do
        python3 - "$file" "$corpus" <<'PY'
import os, sys, zipfile
if zipfile.is_zipfile(sys.argv[1]):
    archive = zipfile.ZipFile(sys.argv[1])
    name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
    open(os.path.join(sys.argv[2], "-".join(sys.argv[1].split("/")[-2:])), "wb").write(archive.read(name))
PY
    done ;;
    gguf) cp "$tests"/gguf/*.gguf "$corpus" ;;
    conversion) sed -n '/^```toml$/,/^```$/{/^```/d;p}' ../docs/formats.md > "$corpus"/every-rule ;;
    *) echo "no target $target" >&2; exit 2 ;;
esac
host=$(rustc -vV | sed -n 's/^host: //p')
flags="-Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1"
RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" cargo build --release --target "$host" --bin "$target"
exec "target/$host/release/$target" "$corpus" -max_total_time="$seconds" -malloc_limit_mb=64 -rss_limit_mb=1024 -timeout=10 -print_final_stats=1
