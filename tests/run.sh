#!/bin/sh
# Builds and runs the tests on a fresh Debian 12 or Ubuntu 24.04, with one command, all set-up included.
#
#   tests/run.sh [release|cpu|debug|asan|tsan] [ctest arguments...]
#
# The default preset is release where there are a CUDA compiler and a GPU, else cpu. The packages of the Python tests
# (tests/requirements.txt) go into a virtual environment in the build folder, unless DUO_PYTHON names an interpreter that
# has them; what is missing where there is no network is skipped and named. Ends with the ten slowest tests, what was
# skipped and why, and one line that counts; with exit status 1 if a test failed.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
preset=cpu
if command -v nvcc >/dev/null && [ -e /dev/nvidiactl ]; then preset=release; fi
case "${1:-}" in
  release | cpu | debug | asan | tsan)
    preset=$1
    shift
    ;;
esac
case "$preset" in release) build=$root/build ;; *) build=$root/build-$preset ;; esac

# The tests want some programs besides: network namespaces are the hosts of tests/mpi, certificates are made by openssl.
note=
test_packages="python3-venv iproute2 openssl"
if ! launcher/install_deps.sh $test_packages; then
  launcher/install_deps.sh
  note="not all of these packages are there: $test_packages"
fi

if [ -z "${DUO_PYTHON:-}" ]; then
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

cmake --preset "$preset" -DDUO_TESTS=ON ${DUO_PYTHON:+-DPython3_EXECUTABLE="$DUO_PYTHON"}
cmake --build "$build" -j "$(nproc)"

# Several ranks on one machine, as root in a container, and sanitizers whose findings must fail the test.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# No fake stack: GCC and Clang put 64-byte vectors on it at 32-byte boundaries, and AVX-512 code then faults.
# Whole stacks of allocations, through libraries without frame pointers: by them tests/lsan.supp knows whose a leak is.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=0:fast_unwind_on_malloc=0}"
export LSAN_OPTIONS="${LSAN_OPTIONS:-print_suppressions=0}" UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"
# ThreadSanitizer sees only part of what libraries without it do: it is to judge calls from instrumented code alone.
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1:ignore_noninstrumented_modules=1}"
for tool in lsan tsan ubsan; do
  file=$root/tests/$tool.supp
  if [ -f "$file" ]; then
    variable=$(echo "$tool" | tr a-z A-Z)_OPTIONS
    eval "export $variable=\"\${$variable:+\$$variable:}suppressions=$file\""
  fi
done

rm -f "$build/tests.xml"
status=0
ctest --test-dir "$build" --output-on-failure --output-junit "$build/tests.xml" -j "$(nproc)" "$@" || status=$?
if [ ! -f "$build/tests.xml" ]; then
  echo "error: no test was run" >&2
  exit 1
fi
python3 tests/summary.py --name "$preset" ${note:+--note "$note"} "$build/tests.xml" && [ "$status" = 0 ]
