#!/usr/bin/env bash
# Composes music as MIDI scores, and fetches the soundfonts that play it.
#
#   launch/composed_music.sh DIR --hours H [--seed S]
#
# It downloads 205 MB with apt-get (Debian 12 or Ubuntu 24.04) at the first call. It installs
# nothing and needs no root. Afterwards DIR holds
#   scores/SEED-NUMBER.mid and .json   the scores, and what is known of each
#   scores.tar.gz                      the same, to carry to other machines
#   soundfonts/                        FluidR3 and MuseScore General (MIT) for training and tests,
#                                      TimGM6mb (GPL-2) for tests alone
#   licences/PACKAGE/copyright         the packages' licences
#   mma/                               the accompaniment generator MMA (GPL-2+)
# A score depends on the seed and its number alone. A call with more hours adds scores; a call that
# was interrupted can be repeated.
# The environment variable PYTHON names a Python that has mido and pretty_midi; default: the
# checkout's .venv.
set -euo pipefail

packages='mma fluid-soundfont-gm musescore-general-soundfont timgm6mb-soundfont'
soundfonts='sf2/FluidR3_GM.sf2 sf3/MuseScore_General_Full.sf3 sf2/TimGM6mb.sf2'

stop() { echo "composed_music.sh: $*" >&2; exit 1; }
usage='usage: launch/composed_music.sh DIR --hours H [--seed S]'

folder='' hours='' seed=0
while [ $# -gt 0 ]; do
  case $1 in
    --hours) [ $# -gt 1 ] || stop "$usage"; hours=$2; shift 2 ;;
    --seed) [ $# -gt 1 ] || stop "$usage"; seed=$2; shift 2 ;;
    -*) stop "does not know $1; $usage" ;;
    *) [ -z "$folder" ] || stop "$usage"; folder=$1; shift ;;
  esac
done
[ -n "$folder" ] && [ -n "$hours" ] || stop "$usage"
[[ $hours =~ ^[0-9]+(\.[0-9]+)?$ ]] || stop "--hours is a number, not $hours."
[[ $seed =~ ^[0-9]+$ ]] || stop "--seed is a whole number, not $seed."
mkdir -p "$folder" 2>/dev/null && [ -w "$folder" ] ||
  stop "cannot write into $folder; name another folder."
folder=$(cd "$folder" && pwd)
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${PYTHON:-}" ] || { PYTHON=$checkout/.venv/bin/python && [ -x "$PYTHON" ]; } || PYTHON=python3
"$PYTHON" -c 'import mido, pretty_midi' 2>/dev/null ||
  stop "$PYTHON cannot import mido and pretty_midi; set PYTHON to a Python that can."

if [ ! -e "$folder/mma" ]; then # it is moved into DIR last
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    stop "needs apt-get and dpkg-deb; run it on Debian 12 or Ubuntu 24.04 and copy DIR."
  work=$(mktemp -d "$folder/.fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/debs" && cd "$work/debs"
  echo "downloading $packages"
  # shellcheck disable=SC2086
  if ! apt-get -qq -o APT::Sandbox::User=root download $packages 2>"$work/errors"; then
    # The package lists are missing or old. Download new ones into the work folder, without root.
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    lists=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache")
    lists+=(-o APT::Sandbox::User=root)
    apt-get -qq "${lists[@]}" update || stop "apt-get update failed; is there a network?"
    # shellcheck disable=SC2086
    apt-get -qq "${lists[@]}" download $packages ||
      stop "apt-get does not find all of: $packages. They are in Debian 12 and Ubuntu 24.04."
  fi
  mkdir -p "$work/out/mma/bin" "$work/out/mma/share" "$work/out/soundfonts"
  for package in $packages; do
    echo "unpacking $package"
    dpkg-deb -x "$work/debs/$package"_*.deb "$work/all"
    mkdir -p "$work/out/licences/$package"
    cp "$work/all/usr/share/doc/$package/copyright" "$work/out/licences/$package/"
    rm "$work/debs/$package"_*.deb
  done
  for soundfont in $soundfonts; do
    [ -s "$work/all/usr/share/sounds/$soundfont" ] ||
      stop "the packages do not hold $soundfont; they differ from those of Debian 12."
    mv "$work/all/usr/share/sounds/$soundfont" "$work/out/soundfonts/"
  done
  [ -s "$work/all/usr/bin/mma" ] && [ -d "$work/all/usr/share/mma/lib/stdlib" ] ||
    stop "the package mma does not hold the program and its grooves."
  mv "$work/all/usr/bin/mma" "$work/out/mma/bin/"
  mv "$work/all/usr/share/mma" "$work/out/mma/share/"
  rm -rf "$folder/licences" "$folder/soundfonts" # of an interrupted call
  mv "$work/out/licences" "$work/out/soundfonts" "$folder/"
  mv "$work/out/mma" "$folder/"
  rm -rf "$work"
fi

cd "$checkout"
"$PYTHON" -m data_pipeline.composing "$folder" --hours "$hours" --seed "$seed"
tar -C "$folder" --exclude='*.partial' -czf "$folder/.scores.tar.gz" scores
mv "$folder/.scores.tar.gz" "$folder/scores.tar.gz"
echo "wrote $folder/scores.tar.gz, $(du -h "$folder/scores.tar.gz" | cut -f1)B"
