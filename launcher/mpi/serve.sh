#!/usr/bin/env bash
# Serves on several ranks: serve.sh RANKS [mpirun options --] duo-serve options...
#   launcher/mpi/serve.sh 4 --model DIR --listen 127.0.0.1:50051 --save-dir /var/lib/duo
#   launcher/mpi/serve.sh 8 --hostfile hosts -- --model DIR --listen 127.0.0.1:50051 --save-dir /shared/duo
# TERM and INT to this script drain the service: mpirun passes them on, and gives rank 0 two minutes to save every
# session before it kills the ranks (it is two seconds otherwise). The program is found as duo on PATH or as $DUO.
set -eu
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
exec mpirun --mca odls_base_sigkill_timeout 120 ${mpi[@]+"${mpi[@]}"} -n "$ranks" "${DUO:-duo}" serve "$@"
