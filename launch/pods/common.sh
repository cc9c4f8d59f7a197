# shellcheck shell=bash
# The other scripts of this folder source this file.
#
# They start a training again when it has ended by one of these statuses of `jen1 train`:
#   0      finished                                          never
#   2, 3   the command or its input was refused              never
#   75     stopped on request, or ended by its watchdog      always
#   other  it crashed, or was killed                         at most RESTARTS times
# A training that was stopped by these scripts is not started again.

# `--dry-run` is taken from the front of the script's arguments: `run` then prints its commands.
dry_run=
[ "${1:-}" != --dry-run ] || { dry_run=yes; shift; }

stop() { echo "$(basename "$0"): $*" >&2; exit 1; }

for argument; do
  [ "$argument" != --dry-run ] || stop '--dry-run comes first.'
done

# COMMAND ARGUMENT...: runs the command, or prints it if $dry_run is set.
run() { if [ -n "$dry_run" ]; then quoted "$@"; else "$@"; fi; }

# ARGUMENT...: prints the arguments in one line, quoted for a shell where they need it.
quoted() {
  local word line=
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  echo "${line# }"
}

# TOPOLOGY, as in `jen1 plan`, for example v5e:4x4: sets generation, shape and chips of a slice.
# shellcheck disable=SC2034  # the other scripts read them
read_topology() {
  [[ $1 =~ ^(v5e:|v6e:|v5p:[1-9][0-9]*x)[1-9][0-9]*x[1-9][0-9]*$ ]] ||
    stop "TOPOLOGY is like v5e:4x4, v5p:4x4x4 or v6e:16x16, not $1."
  generation=${1%%:*} shape=${1#*:}
  chips=$((${shape//x/*}))
}
