#!/usr/bin/env bash
# Trains on TPUs of Google Cloud: makes a slice, installs this checkout on all of its hosts, and
# runs `jen1 train` on all of them. Call it on your own machine, where `gcloud` works.
#
#   bash launch/pods/tpu.sh [--dry-run] keep ARGUMENT ...
#
# does everything: create, install, train, and all of it again when the slice was taken away, until
# the training has ended. ARGUMENT ... is what follows `jen1 train`, for example
#
#   diffusion --config jen1_fast --workdir /data/runs/a --config.data.dir=/data/latents
#
# The same in single steps:
#   create               asks for the slice and waits until it is there
#   install              copies the last commit of this checkout to all hosts and installs it
#   train ARGUMENT ...   starts the training on all hosts, as the systemd unit `jen1`
#   logs                 follows what the first host prints
#   stop                 ends the training on all hosts, after it has saved
#   delete               gives the slice back, which ends the bill
# --dry-run prints the commands and runs nothing. The variables below may be set on the command
# line, as in `ZONE=us-west4-a SPOT=yes bash launch/pods/tpu.sh ...`.
set -euo pipefail

PROJECT=${PROJECT:-}           # of Google Cloud; empty: gcloud's current one
ZONE=${ZONE:-us-west4-a}       # one that has such TPUs, near the share
NAME=${NAME:-jen1}             # of the slice
TOPOLOGY=${TOPOLOGY:-v5e:4x4}  # as in `jen1 plan`
SLICES=${SLICES:-1}            # of this topology, joined by the network of the data centre
SPOT=${SPOT:-no}               # yes: cheaper, and may be taken away at any moment
ACCOUNT=${ACCOUNT:-}           # service account of the hosts; empty: the project's default
SHARE=${SHARE:-}               # NFS share that all hosts see as /data, as in 10.0.0.2:/share
RESTARTS=${RESTARTS:-20}       # after crashes within an hour
SAVING=${SAVING:-600}          # seconds that a training may take to save when it is stopped
PYTHON_VERSION=${PYTHON_VERSION:-3.11}  # the hosts' own Python may be too old

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/pods/common.sh
source launch/pods/xla_flags.sh

usage='usage: tpu.sh [--dry-run] create|install|train|logs|stop|delete|keep [ARGUMENT ...]'
command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  train | keep) [ $# -gt 0 ] || stop "give what follows \`jen1 train\`; $usage" ;;
  create | install | logs | stop | delete) [ $# -eq 0 ] || stop "$usage" ;;
  *) stop "$usage" ;;
esac
read_topology "$TOPOLOGY"
case $generation in
  v5e) type=v5litepod-$chips runtime=v2-alpha-tpuv5-lite ;;
  v5p) type=v5p-$((2 * chips)) runtime=v2-alpha-tpuv5 ;; # it is named by its cores
  v6e) type=v6e-$chips runtime=v2-alpha-tpuv6e ;;
esac
where=(--zone "$ZONE")
[ -z "$PROJECT" ] || where+=(--project "$PROJECT")
slice=(gcloud compute tpus queued-resources)

# COMMAND: runs it in a shell on all hosts of all slices.
on_all() { run "${slice[@]}" ssh "$NAME" "${where[@]}" --node all --worker all --command "$1"; }
on_first() { run "${slice[@]}" ssh "$NAME" "${where[@]}" --node 0 --worker 0 --command "$1"; }

state() { # ACTIVE: the slice is there; empty: nobody has asked for it
  local tries
  for tries in {1..60}; do
    "${slice[@]}" list "${where[@]}" --filter "name~/$NAME\$" --format 'value(state.state)' && return
    sleep 30 # there is no network, for example
  done
  stop "gcloud failed $tries times."
}

request() {
  local options=(--accelerator-type "$type" --runtime-version "$runtime")
  if [ "$SLICES" -eq 1 ]; then
    options+=(--node-id "$NAME")
  else
    options+=(--node-count "$SLICES" --node-prefix "$NAME")
  fi
  [ "$SPOT" != yes ] || options+=(--spot)
  [ -z "$ACCOUNT" ] || options+=(--service-account "$ACCOUNT")
  run "${slice[@]}" create "$NAME" "${where[@]}" "${options[@]}"
}

create() {
  local now
  request
  [ -z "$dry_run" ] || return 0
  while now=$(state) || exit 1; [ "$now" != ACTIVE ]; do
    case $now in FAILED | SUSPENDED) stop "the request for $NAME ended as $now; delete it." ;; esac
    echo "$(date '+%F %T') $NAME: $now"
    sleep 30
  done
}

install() {
  local archive=/tmp/$NAME.tar.gz mount="mountpoint -q /data || { sudo apt-get -qq update
sudo apt-get -qq install nfs-common; sudo mkdir -p /data; sudo mount -t nfs '$SHARE' /data; }"
  run git archive --format tar.gz --prefix jen1/ --output "$archive" HEAD &&
    run "${slice[@]}" scp "$archive" "$NAME:jen1.tar.gz" "${where[@]}" --node all --worker all ||
    return
  # What an earlier commit had is removed. uv brings a Python of the wanted version.
  on_all "set -e; rm -rf jen1/*; tar -xzf jen1.tar.gz; cd jen1
python3 -m pip install --quiet --user uv; uv=\$HOME/.local/bin/uv
\$uv python install $PYTHON_VERSION; export PYTHON=\$(\$uv python find $PYTHON_VERSION)
source launch/setup.sh; setup train,tpu
${SHARE:+$mount}"
}

# systemd starts the training again after a crash, but not after an end, a refusal or `stop`.
train() {
  on_all "sudo systemctl reset-failed jen1 2>/dev/null; sudo systemd-run --unit jen1 \
--uid \$(id -u) --working-directory \$HOME/jen1 \
--setenv LIBTPU_INIT_ARGS=$(quoted "$LIBTPU_INIT_ARGS") \
--property Restart=on-failure --property RestartSec=10 --property RestartPreventExitStatus='2 3' \
--property SuccessExitStatus=75 --property RestartForceExitStatus=75 \
--property StartLimitIntervalSec=3600 --property StartLimitBurst=$RESTARTS \
--property TimeoutStopSec=$SAVING \
\$HOME/jen1/.venv/bin/jen1 train $(quoted "$@")"
}

halt() { on_all 'sudo systemctl stop jen1 2>/dev/null || true'; }

begin() { halt && install && train "$@"; }

delete() { run "${slice[@]}" delete "$NAME" "${where[@]}" --force --quiet; }

# For each host the state of its training, and which boot of the host it is: a reboot forgets the
# unit.
training() {
  on_all "systemctl show jen1 --property ActiveState --value | tr '\n' ' '
cat /proc/sys/kernel/random/boot_id"
}

keep() {
  local now hosts boots started=''
  [ -z "$dry_run" ] || { request; install; train "$@"; training; return; }
  while now=$(state) || exit 1; do
    case $now in
      '') started=''; request ;;
      SUSPENDED | FAILED) started=''; delete ;; # for example, it was taken away
      ACTIVE)
        hosts=$(training | grep -E '^[a-z]+ [0-9a-f-]+$' | sort) || hosts=''
        boots=$(cut -d ' ' -f 2 <<<"$hosts")
        if [ -z "$hosts" ]; then # one of them does not answer; it may be disappearing
          sleep 60
        elif [ "${started:-$boots}" != "$boots" ]; then # after a reboot
          begin "$@" && started=$boots || sleep 60
        elif grep -qE '^activ(e|ating) ' <<<"$hosts"; then
          started=$boots
          sleep 60
        elif [ -z "$started" ]; then
          begin "$@" && started=$boots || sleep 60
        elif grep -q '^failed ' <<<"$hosts"; then
          stop "the training has failed; \`logs\` says why."
        else
          echo "the training has ended; \`delete\` gives the slice back."
          return
        fi
        ;;
      *) echo "$(date '+%F %T') $NAME: $now"; sleep 30 ;;
    esac
  done
}

case $command in
  create | install | delete) "$command" ;;
  train | keep) "$command" "$@" ;;
  logs) on_first 'sudo journalctl --unit jen1 --lines 100 --follow' ;;
  stop) halt ;;
esac
