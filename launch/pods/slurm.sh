#!/usr/bin/env bash
# Trains on a Slurm cluster, on the GPUs or the CPUs of several nodes. Call it on the login node, in
# a checkout that all nodes see and that is installed (`source launch/setup.sh; setup train,cuda`).
#
#   bash launch/pods/slurm.sh [--dry-run] ARGUMENT ...
#
# ARGUMENT ... is what follows `jen1 train`, for example
#
#   diffusion --config jen1_fast --workdir runs/a --config.data.dir=latents
#
# Slurm sends SIGTERM some time before the job's end, or when it preempts the job. The training
# saves and ends with the status 75, and the job enters the queue again. `scancel JOB` ends it for
# good, and leaves it the cluster's KillWait (by default 30 s) for saving.
# --dry-run prints the commands and runs nothing. The variables below may be set on the command
# line, as in `NODES=4 TIME=08:00:00 bash launch/pods/slurm.sh ...`.
set -euo pipefail

NAME=${NAME:-jen1}          # of the job, and of the file NAME-JOB.log
NODES=${NODES:-2}
GPUS=${GPUS:-8}             # of a node, with one process each; 0: one process a node, on its CPUs
CPUS=${CPUS:-8}             # of a process
TIME=${TIME:-24:00:00}      # of a job, before it enters the queue again
LEAD=${LEAD:-600}           # seconds before the end at which the training is told to save
PARTITION=${PARTITION:-}    # empty: the cluster's default, as for ACCOUNT
ACCOUNT=${ACCOUNT:-}
RESTARTS=${RESTARTS:-20}    # after crashes

# Slurm runs a copy of this file, but in the checkout.
[ "${1:-}" = --in-job ] || cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/pods/common.sh

usage="usage: slurm.sh [--dry-run] ARGUMENT ..., where ARGUMENT ... follows \`jen1 train\`"

submit() {
  local tasks=$((GPUS > 0 ? GPUS : 1)) options
  options=(--job-name "$NAME" --output "$NAME-%j.log" --open-mode append --chdir "$PWD")
  options+=(--nodes "$NODES" --ntasks-per-node "$tasks" --cpus-per-task "$CPUS" --time "$TIME")
  options+=(--requeue --signal "TERM@$LEAD")
  [ "$GPUS" -eq 0 ] || options+=(--gpus-per-node "$GPUS")
  [ -z "$PARTITION" ] || options+=(--partition "$PARTITION")
  [ -z "$ACCOUNT" ] || options+=(--account "$ACCOUNT")
  run sbatch "${options[@]}" launch/pods/slurm.sh --in-job "$@"
}

# Runs on the first node of the job.
train() {
  local status=0 cancelled=
  # Before the job's end only the processes of `srun` are told. This shell is told, too, when the
  # job is cancelled, or preempted, after which Slurm itself puts it into the queue.
  trap 'cancelled=yes' TERM
  [ "$GPUS" -gt 0 ] || export JAX_PLATFORMS=cpu
  export PATH=$PWD/.venv/bin:$PATH
  # When one process has ended, the others have time to save.
  run srun --wait "$LEAD" jen1 train "$@" || status=$?
  [ -z "$dry_run" ] || { echo '# after the status 75 or a crash:'; status=75; }
  [ -z "$cancelled" ] || exit "$status"
  case $status in
    0 | 2 | 3) exit "$status" ;;
    75) ;;
    *) [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ] || exit "$status" ;;
  esac
  run scontrol requeue "${SLURM_JOB_ID:-JOB}"
}

if [ "${1:-}" = --in-job ]; then
  shift
  train "$@"
  exit
fi
[ $# -gt 0 ] || stop "$usage"
submit "$@"
[ -z "$dry_run" ] || { echo '# in the job:'; train "$@"; }
