#!/bin/sh
# The single-GPU table of tests/bench/README.md, at the paper's settings: writes one JSON file a row group into a folder.
#
#   tests/bench/gpu_rates.sh build/duo FOLDER
set -u
duo=$1 out=$2
mkdir -p "$out"
run() { # NAME SECONDS duo-arguments...
  name=$1 limit=$2
  shift 2
  echo "== $name: duo $*"
  timeout "$limit" "$duo" "$@" --json >"$out/$name.json" 2>"$out/$name.err"
  code=$?
  [ $code = 0 ] || { echo "exit $code: $(tail -n 1 "$out/$name.err")"; rm -f "$out/$name.json"; return; }
  python3 - "$out/$name.json" <<'P'
import json, sys
for row in json.load(open(sys.argv[1]))["rows"]:
    print(f"  {row['what']:<34} {row['context']:>9,}  {row['seconds']*1e3:>11.3f} ms  floor {100*row['floor_share']:.1f} %")
P
}
run decode_llama3_bf16 90 bench decode --shape llama-3-8b --context 100000,320000,500000 --kv bf16 --attention duo,full
run decode_llama3_int4 60 bench decode --shape llama-3-8b --context 1000000 --kv int4 --attention duo,full
run decode_llama2_bf16 60 bench decode --shape llama-2-7b --sparsity 0.75 --context 120000 --kv bf16 --attention duo,full
run prefill_llama3_320k 140 bench prefill --shape llama-3-8b --context 320000 --chunk 32768 --kv bf16 --attention duo,full
run prefill_llama3_320k_sampled 60 bench prefill --shape llama-3-8b --context 320000 --chunk 32768 --kv bf16 --attention duo --sample
run prefill_llama2_100k 60 bench prefill --shape llama-2-7b --sparsity 0.75 --context 100000 --chunk 10000 --kv bf16 --attention duo,full
run prefill_llama2_100k_16384 60 bench prefill --shape llama-2-7b --sparsity 0.75 --context 100000 --chunk 16384 --kv bf16 --attention duo,full
run prefill_llama3_1m_sampled 170 bench prefill --shape llama-3-8b --context 1000000 --chunk 32768 --kv int4 --attention duo,full --sample
run attention 100 bench attention --context 131072,1000000
