#!/usr/bin/env bash
# From nothing to generated music in one folder: data, autoencoder, latents, diffusion, and five WAV files with a page to look at.
# Run again, it goes on from what is there.
#   bash launch/quickstart.sh                    the built-in data set, in runs/quickstart
#   bash launch/quickstart.sh --music DIR        your own folder, CSV or JSONL of music, in runs/music-NAME-OF-DIR (or --run RUN)
#   bash launch/quickstart.sh --minutes 60       trains the diffusion model for longer; an earlier run goes on (its learning rate
#                                                rises again from the 0 that it ended at, so a new run is a little better)
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

music= run= minutes=15
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
  echo "--minutes is a whole number from 15 on." >&2
  exit 2
fi
case $music in /* | "") ;; *) music=$here/$music ;; esac
case $run in /* | "") ;; *) run=$here/$run ;; esac
if [ -n "$music" ] && [ ! -e "$music" ]; then
  echo "There is no $music; give a folder, CSV or JSONL of music." >&2
  exit 1
fi
name=$(basename "$music")
run=${run:-runs/$([ -n "$music" ] && echo "music-${name%.*}" || echo quickstart)}

source launch/setup.sh
setup train
started=$SECONDS
mkdir -p "$run"
export JAX_COMPILATION_CACHE_DIR=$(mktemp -d) # what one command compiles, the next ones load
trap 'rm -rf "$JAX_COMPILATION_CACHE_DIR"' EXIT
source_of_run=$(cat "$run/source" 2>/dev/null || echo "$music")
if [ "$source_of_run" != "$music" ]; then
  if [ -n "$music" ]; then
    echo "$run was made from ${source_of_run:-the built-in music}; name another run for $music with --run." >&2
  else
    echo "$run was made from $source_of_run; give it again with --music, or name another run with --run." >&2
  fi
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
if [ -n "$(ls "$run"/data/*-test.* 2>/dev/null)" ] && [ ! -e "$run/autoencoder/demos/report.json" ]; then
  jen1 evaluate autoencoder --checkpoint "$run" --data "$run/data" --clips 16 --out "$run/autoencoder/demos"
fi
[ -e "$run/latents" ] || jen1 data encode --data "$run/data" --autoencoder "$run" --out "$run/latents"
jen1 train diffusion --config quickstart --workdir "$run" --config.train_diffusion.steps=$((1400 + (10#$minutes - 15) * 270))

# Held-out clips, and music by their captions, which the model has never seen.
if [ -n "$(ls "$run"/data/*-test.* 2>/dev/null)" ]; then
  rm -rf "$run/captions"
  jen1 evaluate captions --checkpoint "$run" --data "$run/data" --out "$run/captions" || {
    status=$? # 3: refused, as with too few captions; the rest can be made all the same
    [ $status -eq 3 ] || exit $status
    echo "So the captions are not judged."
  }
fi
python launch/clips.py "$run/data" "$run/clips" 4
count=$(ls "$run"/clips/*.txt | wc -l)
caption() { cat "$run/clips/$1.txt"; }
options() { cat "$run/clips/$1"; }
make() { # NAME COMMAND...: makes NAME.wav
  jen1 "${@:2}" --checkpoint "$run" --out "$run/$1.wav"
}
pages=()
for number in 1 2 3; do
  clip=$((number < count ? number : count))
  make text-$number generate --seed $number --prompt "$(caption $clip)" $(options $clip.generate)
  pages+=("$run/clips/$clip.wav" "$run/text-$number.wav")
done
last=$((count < 4 ? count : 4))
make inpainted inpaint --seed 4 --audio "$run/clips/1.wav" --prompt "$(caption 1)" $(options 1.inpaint)
make extended extend --seed 5 --audio "$run/clips/$last-beginning.wav" --prompt "$(caption $last)" $(options $last.extend)
jen1 page --checkpoint "$run" --out "$run/page.png" "${pages[@]}" "$run"/inpainted.wav "$run"/extended.wav

echo
echo "Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s. Listen to:"
ls -1 "$run"/*.wav
echo "and look at $run/page.png$([ -e "$run/captions/page.png" ] && echo " and $run/captions/page.png")"
