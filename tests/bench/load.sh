#!/bin/sh
# A service under load, at the shapes of tests/bench/README.md: writes one JSON file and one picture a row into a folder.
#
#   tests/bench/load.sh build/duo FOLDER [ROW ..]
#
# Rows: one, answers, document, ingest, million, int8, int4, mixed, callers; all unless some are named. Each starts a server of its
# own, with random weights of the Llama-3-8B shape. mixed lasts MIXED_SECONDS (600) and also writes mixed.memory: every
# five seconds the server's resident KiB and, where there is a GPU, its used MiB. PORT is 50951 unless given. A document of
# a million tokens in company: long_document.py.
set -u
duo=$1 out=$2
shift 2
rows=${*:-one answers document ingest million int8 int4 mixed callers}
port=${PORT:-50951}
mkdir -p "$out"

serve() { # serve's arguments..; returns when it listens
  "$duo" serve --shape llama-3-8b --random-weights --listen "127.0.0.1:$port" --http none "$@" 2>"$out/server.log" &
  server=$!
  until grep -q listening "$out/server.log"; do
    kill -0 "$server" 2>/dev/null || { tail -n 3 "$out/server.log"; return 1; }
    sleep 0.5
  done
}
stop() {
  kill "$server"
  wait "$server"
  grep -c slow "$out/server.log" | sed 's/^/  slow lines: /'
}
load() { # NAME SECONDS bench-arguments..
  name=$1 limit=$2
  shift 2
  echo "== $name: duo bench serve $*"
  timeout "$limit" "$duo" bench serve --server "127.0.0.1:$port" "$@" --json --svg "$out/$name.svg" \
    >"$out/$name.json" 2>"$out/$name.err"
  code=$?
  [ $code = 0 ] || { echo "exit $code: $(tail -n 1 "$out/$name.err")"; return; }
  python3 - "$out/$name.json" <<'P'
import json, sys
for r in json.load(open(sys.argv[1]))["results"]:
    gap, first, reads = r["gap_seconds"], r["first_token_seconds"], r.get("reads", {})
    print(f"  {r['clients']:>4} clients {r['tokens_per_second']:>9,.0f} tokens/s  gap ms p50 {gap['p50']*1e3:.1f} "
          f"p99 {gap['p99']*1e3:.1f} worst {gap['worst']*1e3:.1f}  first token s p50 {first['p50']:.3f} "
          f"p99 {first['p99']:.3f}  step ms {r['engine']['mean_step_seconds']*1e3:.2f}"
          + (f"  read {reads['tokens_per_second']:,.0f} tokens/s" if reads else "")
          + (f", {100*reads['share_of_alone']:.0f} % of alone" if "share_of_alone" in reads else "")
          + (f"  intended {r['intended']}" if r["intended"] else "")
          + (f"  ERRORS {r['errors']}" if r["errors"] else "")
          + (f"  LEFT {r['left_behind']}" if any(r.get("left_behind", {}).values()) else ""))
P
}
memory() { # of the server, until it is gone
  while kill -0 "$server" 2>/dev/null; do
    echo "$(date +%s) $(ps -o rss= -p "$server") $(nvidia-smi --id="${CUDA_VISIBLE_DEVICES:-0}" \
      --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null)"
    sleep 5
  done >"$out/mixed.memory"
}

for row in $rows; do
  case $row in
    one)
      serve --kv bf16 --sessions 2 --questions 2 --max-session-tokens 16384 || continue
      load one 60 --clients 1 --context 8000 --answer 512 --seconds 8
      ;;
    answers)
      serve --kv bf16 --sessions 256 --questions 256 --max-queue 600 --max-session-tokens 16384 --kv-tokens 700000 || continue
      load answers_32 120 --clients 32 --context 8000 --answer 512 --seconds 10
      load answers_128 150 --clients 128 --context 4000 --answer 512 --seconds 10
      load answers_256 150 --clients 256 --context 2000 --answer 512 --seconds 10
      ;;
    document)
      serve --kv bf16 --sessions 2 --questions 64 --max-session-tokens 262144 --kv-tokens 300000 || continue
      load document_64 120 --mix document --clients 64 --context 200000 --answer 256 --seconds 10
      ;;
    ingest)
      serve --kv bf16 --sessions 16 --questions 16 --max-session-tokens 131072 --kv-tokens 400000 || continue
      load ingest 120 --mix ingest --clients 8 --context 8000 --answer 512 --document 120000 --read-alone
      ;;
    million) # 900,000 tokens read beside eight answers, as long as the read takes; its rate alone by bench prefill
      timeout 90 "$duo" bench prefill --shape llama-3-8b --kv int4 --context 900000 --chunk 32768 --attention duo --sample --json \
        >"$out/million_alone.json" 2>"$out/million_alone.err"
      serve --kv int4 --sessions 16 --questions 16 --max-session-tokens 1048576 --kv-tokens 1100000 || continue
      load million 560 --mix ingest --clients 8 --context 8000 --answer 512 --document 900000
      ;;
    int8 | int4)
      serve --kv bf16 --weights "$row" --sessions 128 --questions 128 --max-session-tokens 16384 --kv-tokens 600000 || continue
      load "answers_128_$row" 150 --clients 128 --context 4000 --answer 512 --seconds 10
      ;;
    mixed)
      serve --kv bf16 --sessions 192 --questions 64 --max-queue 512 --max-session-tokens 131072 --kv-tokens 900000 || continue
      memory &
      load mixed 1200 --mix mixed --clients 64 --context 200-8000 --answer '~128' --document 5000-100000 --readers 2 \
        --goal-gap 0.06 --seconds "${MIXED_SECONDS:-600}"
      ;;
    callers) # one's first token, alone and while another has 100 calls, of which at most 15 run
      echo a-token-of-the-one >"$out/one" && echo a-token-of-the-other >"$out/other"
      printf 'a-token-of-the-one one\na-token-of-the-other other\n' >"$out/tokens" && chmod 600 "$out/tokens"
      serve --kv bf16 --sessions 4 --questions 16 --max-session-tokens 16384 --kv-tokens 200000 --token-file "$out/tokens" || continue
      set -- --token-file "$out/one" --mix document --clients 1 --context 8000 --question 512 --answer 8 --requests 40
      load callers_alone 60 "$@"
      timeout 60 "$duo" bench serve --server "127.0.0.1:$port" --token-file "$out/other" --mix document --clients 100 \
        --context 8000 --answer 256 --seconds 12 --json >"$out/callers_other.json" &
      other=$!
      sleep 4
      load callers_beside 60 "$@"
      wait $other
      ;;
  esac
  stop
done
