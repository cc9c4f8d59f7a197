# shellcheck shell=bash
# Other scripts source this file from the checkout's root. Both functions take a run that has data/
# and write into it. What they have written since the last training step they do not write again.

# RUN CLIPS: measures the round trip of so many held-out clips.
evaluate_autoencoder() {
  local run=$1 out=$1/autoencoder/demos
  has_held_out "$run" && ! is_newer "$out/report.json" "$run/autoencoder" || return 0
  jen1 evaluate autoencoder --checkpoint "$run" --data "$run/data" --clips "$2" --out "$out"
}

# RUN: evaluates held-out captions, generates five WAV files and draws pictures.
write_results() {
  local run=$1 out=$1/captions count last number clip clips pages=() status
  if has_held_out "$run" && ! is_newer "$out/page.png" "$run/diffusion"; then
    rm -rf "$out"
    jen1 evaluate captions --checkpoint "$run" --data "$run/data" --out "$out" || {
      status=$? # 3: refused, for example because there are too few captions; continue without them
      [ $status -eq 3 ] || exit $status
      echo "The captions are not evaluated."
    }
  fi
  python launch/clips.py "$run/data" "$run/clips" 4
  clips=("$run"/clips/*.txt)
  count=${#clips[@]}
  for number in 1 2 3; do
    clip=$((number < count ? number : count))
    generate "$run" text-$number $clip generate --seed $number
    pages+=("$run/clips/$clip.wav" "$run/text-$number.wav")
  done
  last=$((count < 4 ? count : 4))
  generate "$run" inpainted 1 inpaint --seed 4 --audio "$run/clips/1.wav"
  generate "$run" extended $last extend --seed 5 --audio "$run/clips/$last-beginning.wav"
  jen1 page --checkpoint "$run" --out "$run/page.png" \
    "${pages[@]}" "$run/inpainted.wav" "$run/extended.wav"
  echo "Music:"
  ls -1 "$run"/*.wav
  echo "Pictures:"
  ls -1 "$run/page.png" "$out/page.png" 2>/dev/null || true
}

# RUN NAME CLIP COMMAND OPTION...: writes RUN/NAME.wav from the caption of a clip.
generate() {
  local run=$1 out=$1/$2.wav clip=$1/clips/$3 command=$4
  # shellcheck disable=SC2046  # the file holds options
  is_newer "$out" "$run/diffusion" ||
    jen1 "$command" --checkpoint "$run" --out "$out" --prompt "$(cat "$clip.txt")" \
      $(cat "$clip.$command") "${@:5}"
}

has_held_out() { ls "$1"/data/*-test.* >/dev/null 2>&1; }
is_newer() { [ "$1" -nt "$2/metrics.jsonl" ]; } # FILE TRAINING: written after its last step
