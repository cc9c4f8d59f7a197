#!/usr/bin/env bash
# Downloads seven hours of freely licensed game music from Debian packages into DIR.
#
#   launch/free_music.sh DIR
#   jen1 data prepare --source DIR/music.jsonl ...
#
# It downloads 365 MB with apt-get (Debian 12 or Ubuntu 24.04). It installs nothing and needs no
# root. Afterwards DIR holds
#   audio/PACKAGE/*.ogg
#   licences/PACKAGE/    the packages' copyright files; read them before you publish music or models
#   music.jsonl          path, title, artist, game, licence, genre, caption
# The environment variable PYTHON names a Python that has soundfile; default: the checkout's .venv.
set -euo pipefail

# package | game | licence of its music, by its copyright file | artist where the tags name none
packages='wesnoth-1.16-music|The Battle for Wesnoth|GPL-2+|
planetblupi-music-ogg|Planet Blupi|GPL-3+|Daniel Roux, Epsitec SA and Denis Dumoulin
singularity-music|Endgame: Singularity|CC-BY-SA-3.0|
drascula-music|Drascula: The Vampire Strikes Back|Drascula-License|Alcachofa Soft
hyperrogue-music|HyperRogue|CC-BY-SA-3.0|'

stop() { echo "free_music.sh: $*" >&2; exit 1; }

[ $# -eq 1 ] || stop "give the folder to fill, and nothing else: launch/free_music.sh DIR"
mkdir -p "$1" 2>/dev/null && [ -w "$1" ] || stop "cannot write into $1; name another folder."
folder=$(cd "$1" && pwd)
if [ -e "$folder/music.jsonl" ]; then
  echo "$folder is already complete: $(wc -l <"$folder/music.jsonl") pieces in $folder/music.jsonl"
  exit 0
fi
[ ! -e "$folder/audio" ] && [ ! -e "$folder/licences" ] ||
  stop "$folder has audio/ or licences/ but no music.jsonl; name another folder."
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  stop "needs apt-get and dpkg-deb; run it on Debian 12 or Ubuntu 24.04 and copy DIR."
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${PYTHON:-}" ] || { PYTHON=$checkout/.venv/bin/python && [ -x "$PYTHON" ]; } || PYTHON=python3
"$PYTHON" -c 'import soundfile' 2>/dev/null ||
  stop "$PYTHON cannot import soundfile; set PYTHON to a Python that can."

work=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
names=$(cut -d'|' -f1 <<<"$packages" | tr '\n' ' ')
mkdir "$work/debs" && cd "$work/debs"
echo "downloading $names"
# shellcheck disable=SC2086
download() { apt-get -qq -o APT::Sandbox::User=root download $names; }
if ! download 2>"$work/errors"; then
  # The package lists are missing or old. Download new ones into the work folder, without root.
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  lists=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  apt-get -qq "${lists[@]}" update || stop "apt-get update failed; is there a network?"
  # shellcheck disable=SC2086
  apt-get -qq "${lists[@]}" download $names ||
    stop "apt-get does not find all of: $names. They are in Debian 12 and Ubuntu 24.04."
fi

for deb in *.deb; do
  package=${deb%%_*}
  echo "unpacking $package"
  dpkg-deb -x "$deb" "$work/$package"
  audio=$work/out/audio/$package licences=$work/out/licences/$package
  mkdir -p "$audio" "$licences"
  # Leaves out links, which are names of the same music in other languages, and sounds/, which holds
  # sound effects.
  find "$work/$package" -name '*.ogg' -type f -not -path '*/sounds/*' -exec cp -n -t "$audio" {} +
  find "$work/$package/usr/share/doc" -type f \( -name copyright -o -iname 'readme*' \) \
    -exec cp -t "$licences" {} +
  rm -rf "${work:?}/$package" "$deb"
done

"$PYTHON" - "$work/out" "$packages" <<'PYTHON'
import collections, json, pathlib, sys
import soundfile

out = pathlib.Path(sys.argv[1])
packages = [line.split("|") for line in sys.argv[2].splitlines()]
hours = collections.Counter()
with open(out / "music.jsonl", "w") as manifest:
    for package, game, licence, holder in packages:
        tags = {}
        for path in sorted((out / "audio" / package).glob("*.ogg")):
            with soundfile.SoundFile(path) as file:
                tags[path] = file.copy_metadata()
                hours[package] += file.frames / file.samplerate / 3600
        titles = collections.Counter(tag.get("title") for tag in tags.values())
        for path, tag in tags.items():
            title, artist = tag.get("title", ""), tag.get("artist") or holder
            if titles[title] > 2:  # many pieces with one title: the tag is wrong
                title = ""
            by = f" by {artist}" if artist else ""
            genre = "" if tag.get("genre") in (None, "Game") else tag["genre"]
            if title:
                piece = f"{title}{by}, {genre + ' ' if genre else ''}music"
            else:
                piece = f"{genre or 'Music'}{by}"
            record = {
                "path": str(path.relative_to(out)),
                "title": title,
                "artist": artist,
                "game": game,
                "licence": licence,
                "genre": genre,
                "caption": f"{piece} from the game {game}",
            }
            manifest.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(f"{package}: {len(tags)} pieces, {hours[package]:.2f} hours, {licence}")
print(f"{sum(hours.values()):.2f} hours in all")
PYTHON

mv "$work/out/audio" "$work/out/licences" "$folder/"
mv "$work/out/music.jsonl" "$folder/"
echo "wrote $folder/music.jsonl, $folder/audio and $folder/licences"
