#!/bin/sh
# Builds and runs the tests on a fresh Debian 12 or Ubuntu 24.04, with one command.
#
#   tests/run.sh [release|cpu|debug|asan|tsan] [ctest arguments...]
#
# The default preset is release where there are a CUDA compiler and a GPU, else cpu. Python parity tests run where their packages are
# (set DUO_PYTHON to an interpreter that has them) and are counted as skipped elsewhere. Ends with one line that counts, and
# with exit status 1 if a test failed.
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

launcher/install_deps.sh
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

log=$build/tests.log
status=0
ctest --test-dir "$build" --output-on-failure -j "$(nproc)" "$@" >"$log" 2>&1 || status=$?
cat "$log"
skipped=$(grep -c '\*\*\*Skipped' "$log" || true)
run=$(sed -n 's/.*tests failed out of \([0-9]*\).*/\1/p' "$log" | tail -n 1)
if [ -z "$run" ]; then
  echo "error: no test was run" >&2
  exit 1
fi
failed=$(sed -n 's/.* \([0-9]*\) tests failed out of.*/\1/p' "$log" | tail -n 1)
echo "$preset: $((run - failed - skipped)) passed, $failed failed, $skipped skipped, $run in all"
[ "$status" = 0 ] && [ "$failed" = 0 ]
