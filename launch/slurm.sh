#!/usr/bin/env bash
# A Slurm job, GPU or CPU: one process per node, which takes all of the node's accelerators.
#
#   sbatch --nodes=4 --gpus-per-node=8 --time=24:00:00 launch/slurm.sh run CONFIG --workdir=/shared/… [--section.field=value …]
#
# Submit it from the repository, on a file system that all nodes share, with the environment made there before:
#
#   bash -c 'source launch/environment.sh; make_environment index,pretrained,cuda'
#
# Options on sbatch's command line go before the ones here. When the time is nearly up, or the job is preempted
# or a node fails, it goes back into the queue, and then on from its last checkpoint.
#SBATCH --job-name=scalingnote
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x-%j.log
set -euo pipefail

if [ -z "${SLURM_JOB_ID:-}" ] || [ $# -lt 2 ]; then
  echo "usage: sbatch [--nodes=N] [--gpus-per-node=G] launch/slurm.sh VERB CONFIG --workdir=… [words]" >&2
  exit 2
fi
# Slurm runs a copy of this file from its own folder.
cd "${SLURM_SUBMIT_DIR:-.}"
export PATH="$PWD/${VENV:-.venv}/bin:$PATH"

requeue() {
  echo "the time is nearly up: back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
}
trap requeue USR1

# One task gets one core unless it asks for all. A task that fails ends the others at once.
step=(srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}")
verb=$1
shift
"${step[@]}" python launch/preflight.py "$@"
"${step[@]}" scalingnote "$verb" "$@" &
# A trap runs only while the shell waits; the wait then ends early, and Slurm ends the job.
wait $!
