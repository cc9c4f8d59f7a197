#!/usr/bin/env bash
# Trains on all GPUs of one or several hosts, in a container. JAX sums gradients with NCCL, over
# NVLink, InfiniBand or the network. Call it on each host, in a checkout.
#
#   bash launch/pods/gpu.sh [--dry-run] build
#   bash launch/pods/gpu.sh [--dry-run] train ARGUMENT ...
#
# `build` makes the image, or use one from a registry as IMAGE. ARGUMENT ... is what follows
# `jen1 train`; its folders are seen as /data/..., which is DATA. On the first of two hosts:
#
#   PROCESSES=2 PROCESS=0 COORDINATOR=HOST-0:1234 bash launch/pods/gpu.sh train \
#     diffusion --config jen1_fast --workdir /data/runs/a --config.data.dir=/data/latents
#
# and on the second one the same with PROCESS=1. Ctrl-C or SIGTERM ends the training after it has
# saved; on one host it ends on all of them. --dry-run prints the commands and runs nothing.
set -euo pipefail

IMAGE=${IMAGE:-jen1}             # also the container's name
DATA=${DATA:-$PWD}               # folder with the runs and the latents; all hosts see the same
GPUS=${GPUS:-all}                # or '"device=0,1"'
PROCESSES=${PROCESSES:-1}        # hosts
PROCESS=${PROCESS:-0}            # number of this host: 0, 1, ...
COORDINATOR=${COORDINATOR:-}     # host 0 and a free port, as seen from all hosts
RESTARTS=${RESTARTS:-20}         # after crashes
SAVING=${SAVING:-600}            # seconds that a training may take to save when it is stopped

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/pods/common.sh

usage='usage: gpu.sh [--dry-run] build | train ARGUMENT ...'
command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  build)
    run docker build --tag "$IMAGE" --build-arg EXTRA=cuda --file launch/pods/Dockerfile .
    exit
    ;;
  train) [ $# -gt 0 ] || stop "give what follows \`jen1 train\`; $usage" ;;
  *) stop "$usage" ;;
esac
name=$(basename "$IMAGE")
name=${name%%:*}
options=(--rm --init --name "$name" --gpus "$GPUS" --network host --ipc host --ulimit memlock=-1)
options+=(--user "$(id -u):$(id -g)" --env HOME=/tmp --volume "$DATA:/data")
options+=(--env JAX_COMPILATION_CACHE_DIR=/data/.compiled)
[ ! -e /dev/infiniband ] || options+=(--device /dev/infiniband)
if [ "$PROCESSES" -gt 1 ]; then
  [ -n "$COORDINATOR" ] || stop 'with PROCESSES above 1, COORDINATOR must be set, as HOST-0:PORT.'
  set -- "$@" --coordinator "$COORDINATOR" --processes "$PROCESSES" --process "$PROCESS"
fi
train=(docker run "${options[@]}" "$IMAGE" train "$@")
[ -z "$dry_run" ] || { run "${train[@]}"; exit; }

stopped='' crashes=0
trap 'stopped=yes; docker stop --time "$SAVING" "$name" >/dev/null || true' INT TERM
while :; do
  "${train[@]}" &
  status=0
  wait $! || status=$?
  if [ -n "$stopped" ]; then # the signal has ended the first `wait`
    status=0
    wait $! || status=$?
    exit "$status"
  fi
  case $status in
    0 | 2 | 3) exit "$status" ;;
    75) ;;
    *) crashes=$((crashes + 1)); [ $crashes -le "$RESTARTS" ] || exit "$status" ;;
  esac
  echo "$(date '+%F %T') the training ended with the status $status; starting it again"
  sleep 10
  [ -z "$stopped" ] || exit "$status"
done
