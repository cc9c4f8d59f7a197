#!/usr/bin/env bash
# From nothing to generated music in one folder: data, autoencoder, latents, diffusion, and five WAV files with a page to look at.
# Run again, it goes on from what is there.
#   bash launch/quickstart.sh                    the built-in data set, in runs/quickstart
#   bash launch/quickstart.sh --music DIR        your own folder, CSV or JSONL of music, in runs/music-NAME-OF-DIR (or --run RUN)
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

music= run=
while [ $# -gt 0 ]; do
  case $1 in
    --music) music=${2:?--music needs a folder}; shift 2 ;;
    --run) run=${2:?--run needs a folder}; shift 2 ;;
    *) echo "usage: quickstart.sh [--music DIR] [--run RUN]" >&2; exit 2 ;;
  esac
done
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
source_of_run=$(cat "$run/source" 2>/dev/null || echo "$music")
if [ "$source_of_run" != "$music" ]; then
  echo "$run was made from ${source_of_run:-the built-in music}; name another run for $music with --run." >&2
  exit 1
fi
echo "$music" >"$run/source"

if [ ! -e "$run/data" ]; then
  if [ -n "$music" ]; then
    jen1 data prepare --source "$music" --out "$run/data" --seconds 10.24 --limit-hours 2
  else
    jen1 data prepare --source synthetic --out "$run/data" --seconds 10.24 --clips 150
  fi
fi
jen1 train autoencoder --config quickstart --workdir "$run"
if [ -n "$(ls "$run"/data/*-test.* 2>/dev/null)" ] && [ ! -e "$run/autoencoder/demos/report.json" ]; then
  jen1 evaluate autoencoder --checkpoint "$run" --data "$run/data" --out "$run/autoencoder/demos"
fi
[ -e "$run/latents" ] || jen1 data encode --data "$run/data" --autoencoder "$run" --out "$run/latents"
jen1 train diffusion --config quickstart --workdir "$run"

# Clips that the diffusion model has learnt, their captions, and the options that ask for them.
python launch/clips.py "$run/data" "$run/learnt" 4
count=$(ls "$run"/learnt/*.txt | wc -l)
caption() { cat "$run/learnt/$1.txt"; }
options() { cat "$run/learnt/$1"; }
make() { # NAME COMMAND...: makes NAME.wav unless it is there
  [ -e "$run/$1.wav" ] || jen1 "${@:2}" --checkpoint "$run" --out "$run/$1.wav"
}
pages=()
for number in 1 2 3; do
  learnt=$((number < count ? number : count))
  make text-$number generate --seed $number --prompt "$(caption $learnt)" $(options $learnt.generate)
  pages+=("$run/learnt/$learnt.wav" "$run/text-$number.wav")
done
last=$((count < 4 ? count : 4))
make inpainted inpaint --seed 4 --audio "$run/learnt/1.wav" --prompt "$(caption 1)" $(options 1.inpaint)
make extended extend --seed 5 --audio "$run/learnt/$last-beginning.wav" --prompt "$(caption $last)" $(options $last.extend)
jen1 page --checkpoint "$run" --out "$run/page.png" "${pages[@]}" "$run"/inpainted.wav "$run"/extended.wav

echo
echo "Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s. Listen to:"
ls -1 "$run"/*.wav
echo "and look at $run/page.png"
