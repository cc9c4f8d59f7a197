#!/usr/bin/env bash
# Trains a small model and generates music with it. The data, the autoencoder, the latents, the
# diffusion model, five WAV files and a page with pictures are written into one run folder. If the
# script is started again, it continues from what is there.
#
#   bash launch/quickstart.sh                    the built-in music, in runs/quickstart
#   bash launch/quickstart.sh --music DIR        your own folder, CSV or JSONL of music, in
#                                                runs/music-NAME-OF-DIR (or --run RUN)
#   bash launch/quickstart.sh --minutes 60       trains the diffusion model for longer
#
# --minutes also continues a finished run, whose learning rate then rises again from 0. A new run
# gives a slightly better model.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

music='' run='' minutes=15
while [ $# -gt 0 ]; do
  case $1 in
    --music) music=${2:?--music needs a folder}; shift 2 ;;
    --run) run=${2:?--run needs a folder}; shift 2 ;;
    --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
    *) echo "usage: quickstart.sh [--music DIR] [--run RUN] [--minutes M]" >&2; exit 2 ;;
  esac
done
case $minutes in "" | *[!0-9]*) minutes=0 ;; esac
if [ "$minutes" -lt 15 ]; then
  echo "--minutes must be a whole number of at least 15." >&2
  exit 2
fi
case $music in /* | "") ;; *) music=$here/$music ;; esac
case $run in /* | "") ;; *) run=$here/$run ;; esac
if [ -n "$music" ] && [ ! -e "$music" ]; then
  echo "$music does not exist; give a folder, CSV or JSONL of music." >&2
  exit 1
fi
name=$(basename "$music")
run=${run:-runs/$([ -n "$music" ] && echo "music-${name%.*}" || echo quickstart)}

source launch/setup.sh
source launch/results.sh
setup train
started=$SECONDS
mkdir -p "$run"
# Each command uses the programs that the commands before it have compiled.
JAX_COMPILATION_CACHE_DIR=$(mktemp -d)
export JAX_COMPILATION_CACHE_DIR
trap 'rm -rf "$JAX_COMPILATION_CACHE_DIR"' EXIT
source_of_run=$(cat "$run/source" 2>/dev/null || echo "$music")
if [ "$source_of_run" != "$music" ]; then
  if [ -n "$music" ]; then
    advice="name another run for $music with --run"
  else
    advice="give it again with --music, or name another run with --run"
  fi
  echo "$run was started with ${source_of_run:-the built-in music}; $advice." >&2
  exit 1
fi
echo "$music" >"$run/source"

if [ ! -e "$run/data" ]; then
  if [ -n "$music" ]; then
    jen1 data prepare --source "$music" --out "$run/data" --seconds 5.12 --limit-hours 1
  else
    jen1 data prepare --source synthetic --out "$run/data" --seconds 5.12 --clips 720
  fi
fi
jen1 train autoencoder --config quickstart --workdir "$run"
evaluate_autoencoder "$run" 16
if [ ! -e "$run/latents" ]; then
  jen1 data encode --data "$run/data" --autoencoder "$run" --out "$run/latents"
fi
steps=$((1400 + (10#$minutes - 15) * 270))
jen1 train diffusion --config quickstart --workdir "$run" --config.train_diffusion.steps=$steps
write_results "$run"
echo "Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s."
