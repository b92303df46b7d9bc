#!/bin/sh
# A service under load, at the shapes of tests/bench/README.md: writes one JSON file and one picture a row into a folder.
#
#   tests/bench/load.sh build/duo FOLDER [ROW ..]
#
# Rows: one, answers, document, ingest, long, int8, int4; all unless some are named. Each starts a server of its own, with
# random weights of the Llama-3-8B shape.
set -u
duo=$1 out=$2
shift 2
rows=${*:-one answers document ingest long int8 int4}
port=50951
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
          + (f"  ERRORS {r['errors']}" if r["errors"] else ""))
P
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
    long)
      serve --kv int4 --sessions 16 --questions 16 --max-session-tokens 1048576 --kv-tokens 1200000 || continue
      load long 500 --mix ingest --clients 8 --context 8000 --answer 512 --document 900000
      ;;
    int8 | int4)
      serve --kv bf16 --weights "$row" --sessions 128 --questions 128 --max-session-tokens 16384 --kv-tokens 600000 || continue
      load "answers_128_$row" 150 --clients 128 --context 4000 --answer 512 --seconds 10
      ;;
  esac
  stop
done
