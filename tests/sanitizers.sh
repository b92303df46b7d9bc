# shellcheck shell=sh
# To be sourced, with $root set: what test programs find in their environment, in every build.

# Several ranks on one machine, as root in a container, and sanitizers whose findings must fail the test.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# No fake stack: GCC and Clang put 64-byte vectors on it at 32-byte boundaries, and AVX-512 code then faults.
# Whole stacks of allocations, through libraries without frame pointers: by them tests/lsan.supp knows whose a leak is.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=0:fast_unwind_on_malloc=0}"
export LSAN_OPTIONS="${LSAN_OPTIONS:-print_suppressions=0}" UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"
# ThreadSanitizer sees only part of what libraries without it do: it is to judge calls from instrumented code alone.
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1:ignore_noninstrumented_modules=1}"
for tool in lsan tsan ubsan; do
  file=${root:?}/tests/$tool.supp
  if [ -f "$file" ]; then
    variable=$(echo "$tool" | tr a-z A-Z)_OPTIONS
    eval "export $variable=\"\${$variable:+\$$variable:}suppressions=$file\""
  fi
done
