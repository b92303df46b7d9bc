#!/usr/bin/env bash
# A Slurm job: duo on every GPU of two nodes, one rank a GPU. What follows the script is duo's command line.
#   sbatch launcher/mpi/slurm.sh generate --model /models/llama --prompt-file book.txt --ask 'Who is the narrator?'
#   sbatch launcher/mpi/slurm.sh serve --model /models/llama --listen 0.0.0.0:50051 --token-file tokens --save-dir /shared/duo
# Options of sbatch before the script's name override those below: sbatch --nodes=4 launcher/mpi/slurm.sh ..
# The program is found as duo on PATH or as $DUO. Two minutes before the time is up the ranks get TERM: a server then
# saves its sessions to --save-dir and ends.
#SBATCH --job-name=duo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
set -eu
if [ $# -eq 0 ]; then
  sed -n '2,7s/^# //p' "$0" >&2
  exit 2
fi
# pmix is what Open MPI's ranks find each other by; a rank that dies takes the others with it.
exec srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${DUO:-duo}" "$@"
