#!/bin/sh
# Builds and runs the tests on a fresh Debian 12 or Ubuntu 24.04, with one command, all set-up included.
#
#   tests/run.sh [release|cpu|debug|asan|tsan] [ctest arguments...]     a build and its tests, all of them by default
#   tests/run.sh quick                                                  what takes minutes
#   tests/run.sh ci                                                     what continuous integration runs (.ci/run)
#
# The default preset is release where there are a CUDA compiler and a GPU, else cpu. The packages of the Python tests
# (tests/requirements.txt) go into a virtual environment in the build folder, unless DUO_PYTHON names an interpreter that
# has them; what is missing where there is no network is skipped and named. DUO_TEST_SCALE multiplies the counts of random
# tests. Where DUO_TEST_SECONDS is set, tier ci leaves out, and names, a sanitizer for which that time would not suffice. Ends
# with the ten slowest tests, what was skipped and why, and one line that counts; with exit status 1 if a test failed. What the
# tiers are: tests/README.md.
set -eu
started=$(date +%s)

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
preset=cpu
if command -v nvcc >/dev/null && [ -e /dev/nvidiactl ]; then preset=release; fi
tier=
case "${1:-}" in
  release | cpu | debug | asan | tsan)
    preset=$1
    shift
    ;;
  quick | ci)
    tier=$1
    shift
    ;;
esac
[ "$tier" != ci ] || preset=cpu

build_folder() {
  case "$1" in release) echo "$root/build" ;; *) echo "$root/build-$1" ;; esac
}

# The tests want some programs besides: network namespaces are the hosts of tests/mpi, certificates are made by openssl.
note=
test_packages="python3-venv iproute2 openssl"
if ! launcher/install_deps.sh $test_packages; then
  launcher/install_deps.sh
  note="not all of these packages are there: $test_packages"
fi

if [ -z "${DUO_PYTHON:-}" ]; then
  build=$(build_folder "$preset")
  venv=$build/venv
  if ! cmp -s tests/requirements.txt "$venv/requirements.txt"; then
    echo "Installing the Python packages of the tests into $venv" >&2
    rm -rf "$venv"
    mkdir -p "$build"
    if ! python3 -m venv "$venv" >"$build/venv.log" 2>&1; then
      note="no Python environment could be made ($build/venv.log)"
      rm -rf "$venv"
    elif timeout 900 "$venv/bin/python" -m pip install -q --disable-pip-version-check --retries 2 --no-deps \
      -r tests/requirements.txt >"$build/venv.log" 2>&1; then
      cp tests/requirements.txt "$venv/requirements.txt"
    else
      note="not all packages of tests/requirements.txt could be installed ($build/venv.log)"
    fi
  fi
  [ ! -x "$venv/bin/python" ] || DUO_PYTHON=$venv/bin/python
fi

. tests/sanitizers.sh

status=0
results=
# build_and_test PRESET TARGET [ctest arguments...]
build_and_test() {
  build=$(build_folder "$1")
  begun=$(date +%s)
  cmake --preset "$1" -DDUO_TESTS=ON -DDUO_TEST_SCALE="${DUO_TEST_SCALE:-1}" ${DUO_PYTHON:+-DPython3_EXECUTABLE="$DUO_PYTHON"}
  cmake --build "$build" -j "$(nproc)" --target "$2"
  built=$(date +%s)
  shift 2
  rm -f "$build/tests.xml"
  ctest --test-dir "$build" --output-on-failure --output-junit "$build/tests.xml" -j "$(nproc)" "$@" || status=1
  if [ ! -f "$build/tests.xml" ]; then
    echo "error: no test was run" >&2
    exit 1
  fi
  results="$results $build/tests.xml"
  tested=$(date +%s)
  echo "$build: built in $((built - begun)) s, tested in $((tested - built)) s"
}

# sanitized NAME [ctest arguments...]: what tier ci runs under a sanitizer, where there is time for it. All that this machine has built and tested
# before tells how long it will take: half of the files and a fifth of the tests' time.
sanitized() {
  sanitizer=$1
  shift
  need=$(((plain_built * 65 + plain_tested * 20) / 100))
  left=$((started + ${DUO_TEST_SECONDS:-1000000} - $(date +%s)))
  if [ "$need" -gt "$left" ]; then
    note="${note:+$note; }preset $sanitizer was not run, for want of time: about $need s, where $left s were left"
    return
  fi
  build_and_test "$sanitizer" "ci_${sanitizer}_tests" -L "^ci-$sanitizer\$" "$@"
}

case "$tier" in
  quick) build_and_test "$preset" all -L '^quick$' "$@" ;;
  ci)
    build_and_test cpu all -L '^ci$' "$@"
    plain_built=$((built - begun)) plain_tested=$((tested - built))
    sanitized asan "$@"
    sanitized tsan "$@"
    ;;
  *) build_and_test "$preset" all "$@" ;;
esac
python3 tests/summary.py --name "${tier:-$preset}" ${note:+--note "$note"} ${DUO_TEST_JSON:+--json "$DUO_TEST_JSON"} $results &&
  [ "$status" = 0 ]
