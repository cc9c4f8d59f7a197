#!/usr/bin/env bash
# Trains a model that composes music from text, beginning with nothing. It composes scores, renders
# them, trains an autoencoder on ten hours of the music and a diffusion model on all of it, and
# generates music from captions that the model has not seen. Everything is written into RUN, except
# scores and soundfonts, which are in MUSIC.
#
#   bash launch/compose.sh [--run RUN] [--music MUSIC] [--hours H] [-- --config.FIELD=VALUE ...]
#
# The defaults are runs/compose, music/composed and 60 hours. What follows -- changes the
# configuration configs/compose.py in both trainings, for example
#
#   bash launch/compose.sh --run runs/short -- --config.train_diffusion.steps=2000
#
# The script may be stopped or killed at any moment. The same command continues from what is there.
# If MUSIC holds scores.tar.gz of another machine and no scores, these are taken.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

stop() { echo "compose.sh: $*" >&2; exit 1; }
stage() { echo "$(date '+%F %T') $*"; }
usage='usage: compose.sh [--run RUN] [--music MUSIC] [--hours H] [-- --config.FIELD=VALUE ...]'

run=$PWD/runs/compose music=$PWD/music/composed hours=60
while [ $# -gt 0 ]; do
  case $1 in
    --run | --music | --hours) [ $# -gt 1 ] || stop "$usage" ;;&
    --run) run=$2; shift 2 ;;
    --music) music=$2; shift 2 ;;
    --hours) hours=$2; shift 2 ;;
    --) shift; break ;;
    *) stop "does not know $1; $usage" ;;
  esac
done
overrides=("$@")
[[ $hours =~ ^[0-9]+(\.[0-9]+)?$ && $hours =~ [1-9] ]] ||
  stop "--hours is a number above 0, not $hours."
case $run in /*) ;; *) run=$here/$run ;; esac
case $music in /*) ;; *) music=$here/$music ;; esac
mkdir -p "$run" "$music" 2>/dev/null && [ -w "$run" ] && [ -w "$music" ] ||
  stop "cannot write into $run and $music; name other folders."
# The programs that this script calls hold the lock too. They may live on when it is killed.
exec 9>"$run/lock"
flock -n 9 || { echo "waiting for the end of another call in $run"; flock 9; }
source_of_run=$(cat "$run/source" 2>/dev/null || echo "$hours hours of $music")
[ "$source_of_run" = "$hours hours of $music" ] ||
  stop "$run was started with $source_of_run; give the same, or name another run with --run."
echo "$source_of_run" >"$run/source"

source launch/setup.sh
source launch/results.sh
setup train,midi
# A call that was killed has compiled programs for the next one.
export JAX_COMPILATION_CACHE_DIR=$PWD/.venv/compiled
settings=$(python - "${overrides[@]}" <<'PYTHON'
import sys
from jen1_jax.config import load_config
from jen1_numpy.errors import Refusal

pairs = [text.removeprefix("--config.").split("=", 1) for text in sys.argv[1:]]
if not all(text.startswith("--config.") and "=" in text for text in sys.argv[1:]):
    sys.exit("compose.sh: what follows -- looks like --config.train_diffusion.steps=1000.")
try:
    config = load_config("compose", dict(pairs))
except Refusal as refusal:
    sys.exit(f"compose.sh: {refusal}")
print(config.data.seconds, config.text.max_length, config.text.dtype)
PYTHON
)
read -r seconds tokens dtype <<<"$settings"
text=$run/language_model

if [ ! -e "$run/latents" ]; then
  stage "composing $hours hours"
  if [ -e "$music/scores.tar.gz" ] && [ ! -e "$music/scores" ]; then
    rm -rf "$music/.unpacked"
    mkdir "$music/.unpacked"
    tar -C "$music/.unpacked" -xzf "$music/scores.tar.gz" scores ||
      stop "$music/scores.tar.gz cannot be unpacked; copy it again, or remove it."
    mv "$music/.unpacked/scores" "$music/scores"
    rmdir "$music/.unpacked"
  fi
  bash launch/composed_music.sh "$music" --hours "$hours"
fi
soundfonts=$(printf ',%s' "$music"/soundfonts/*)
rendered=(--source "$music/scores" --soundfont "${soundfonts#,}" --seconds "$seconds")
bash launch/language_model.sh "$text"

if [ ! -e "$run/data" ]; then
  stage "rendering music for the autoencoder"
  ten=$(awk "BEGIN { print $hours < 10 ? $hours : 10 }")
  jen1 data prepare "${rendered[@]}" --limit-hours "$ten" --out "$run/data"
fi
stage "training the autoencoder"
train() {
  jen1 train "$1" --config compose --workdir "$run" "--config.text.encoder=$text" \
    "${overrides[@]}"
}
train autoencoder
evaluate_autoencoder "$run" 96 # about ten clips come from one piece

if [ ! -e "$run/latents" ]; then
  stage "rendering and encoding $hours hours"
  jen1 data encode "${rendered[@]}" --limit-hours "$hours" --autoencoder "$run" --text "$text" \
    --text-max-length "$tokens" --text-dtype "$dtype" --out "$run/latents"
fi
stage "training the diffusion model"
train diffusion
stage "generating music"
write_results "$run"
