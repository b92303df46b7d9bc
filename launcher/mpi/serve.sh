#!/usr/bin/env bash
# Serves on several ranks: serve.sh RANKS [mpirun options --] duo-serve options...
#   launcher/mpi/serve.sh 4 --model DIR --listen 127.0.0.1:50051 --save-dir /var/lib/duo
#   launcher/mpi/serve.sh 8 --hostfile hosts -- --model DIR --listen 127.0.0.1:50051 --save-dir /shared/duo
# TERM and INT to this script drain the service and end it with exit code 0. They become USR1 for rank 0, or, where that
# is on another machine, for mpirun, which passes it on (4.1.4 does, 4.1.6 was seen not to; `duo client drain` always
# works). A TERM mpirun answers by ending the ranks itself, and tells them only shortly before it kills them
# (odls_base_sigkill_timeout). HUP makes rank 0, if it runs here, read tokens and certificates again. The program is found
# as duo on PATH or as $DUO.
set -u
if [ $# -lt 2 ]; then
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
fi
ranks=$1
shift
mpi=()
for argument in "$@"; do
  if [ "$argument" = -- ]; then
    while [ "$1" != -- ]; do mpi+=("$1"); shift; done
    shift
    break
  fi
done
# A session of its own: Ctrl-C in a terminal reaches this script alone.
setsid mpirun ${mpi[@]+"${mpi[@]}"} -n "$ranks" "${DUO:-duo}" serve "$@" &
mpirun=$!
rank_zero() { # its process id, if mpirun started it here
  local process
  for process in $(cat "/proc/$mpirun/task/$mpirun/children" 2>/dev/null); do
    tr '\0' '\n' 2>/dev/null <"/proc/$process/environ" | grep -qx OMPI_COMM_WORLD_RANK=0 && echo "$process"
  done
}
drain() {
  local process
  process=$(rank_zero)
  kill -USR1 "${process:-$mpirun}"
}
reload() { # of tokens and certificates, by rank 0 alone
  local process
  process=$(rank_zero)
  [ -z "$process" ] || kill -HUP "$process"
}
trap drain TERM INT
trap reload HUP
while :; do
  wait "$mpirun"
  code=$?
  kill -0 "$mpirun" 2>/dev/null || exit "$code"  # else a signal interrupted the waiting
done
