#!/usr/bin/env bash
# Seven hours of freely licensed game music out of Debian packages, ready for `jen1 data prepare --source DIR/music.jsonl`.
#
#   launch/free_music.sh DIR
#
# Downloads 365 MB with apt-get (Debian 12 or Ubuntu 24.04); nothing is installed and no root is needed. Afterwards DIR holds
# audio/PACKAGE/*.ogg, licences/PACKAGE/ (the packages' own copyright files; read them before passing music or models on) and
# music.jsonl: path, title, artist, game, licence, caption. PYTHON names another python with soundfile than the checkout's .venv.
set -euo pipefail

# package, game, licence of the music in it as its copyright file states it, its copyright holder where the files' tags name nobody
packages='wesnoth-1.16-music|The Battle for Wesnoth|GPL-2+|
planetblupi-music-ogg|Planet Blupi|GPL-3+|Daniel Roux, Epsitec SA and Denis Dumoulin
singularity-music|Endgame: Singularity|CC-BY-SA-3.0|
drascula-music|Drascula: The Vampire Strikes Back|Drascula-License|Alcachofa Soft
hyperrogue-music|HyperRogue|CC-BY-SA-3.0|'

stop() { echo "free_music.sh: $*" >&2; exit 1; }

[ $# -eq 1 ] || stop "name the one folder to fill: launch/free_music.sh DIR"
mkdir -p "$1" 2>/dev/null && [ -w "$1" ] || stop "cannot write into $1; name another folder."
folder=$(cd "$1" && pwd)
if [ -e "$folder/music.jsonl" ]; then
  echo "$folder is already complete: $(wc -l <"$folder/music.jsonl") pieces in $folder/music.jsonl"
  exit 0
fi
[ ! -e "$folder/audio" ] && [ ! -e "$folder/licences" ] || stop "$folder has audio/ or licences/ but no music.jsonl; name another folder."
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  stop "needs apt-get and dpkg-deb; run it on Debian 12 or Ubuntu 24.04 (a container will do) and copy DIR over."
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${PYTHON:-}" ] || { PYTHON=$checkout/.venv/bin/python && [ -x "$PYTHON" ]; } || PYTHON=python3
"$PYTHON" -c 'import soundfile' 2>/dev/null || stop "$PYTHON cannot import soundfile; set PYTHON to one that can."

work=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
names=$(cut -d'|' -f1 <<<"$packages")
mkdir "$work/debs" && cd "$work/debs"
echo "downloading" $names
# shellcheck disable=SC2086
download() { apt-get -qq -o APT::Sandbox::User=root download $names; }
if ! download 2>"$work/errors"; then # package lists missing or old: fetch them into the work folder, which needs no root
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  lists=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  apt-get -qq "${lists[@]}" update || stop "apt-get update failed; is there a network?"
  # shellcheck disable=SC2086
  apt-get -qq "${lists[@]}" download $names || stop "apt-get finds not all of: $names. They are in Debian 12 and Ubuntu 24.04."
fi

for deb in *.deb; do
  package=${deb%%_*}
  echo "unpacking $package"
  dpkg-deb -x "$deb" "$work/$package"
  mkdir -p "$work/out/audio/$package" "$work/out/licences/$package"
  # links are other languages' names for the same music; sounds/ are effects
  find "$work/$package" -name '*.ogg' -type f -not -path '*/sounds/*' -exec cp -n -t "$work/out/audio/$package" {} +
  find "$work/$package/usr/share/doc" -type f \( -name copyright -o -iname 'readme*' \) -exec cp -t "$work/out/licences/$package" {} +
  rm -rf "${work:?}/$package" "$deb"
done

"$PYTHON" - "$work/out" "$packages" <<'PYTHON'
import collections, json, pathlib, sys
import soundfile

out, packages = pathlib.Path(sys.argv[1]), [line.split("|") for line in sys.argv[2].splitlines()]
hours = collections.Counter()
with open(out / "music.jsonl", "w") as manifest:
    for package, game, licence, holder in packages:
        tags = {}
        for path in sorted((out / "audio" / package).glob("*.ogg")):
            with soundfile.SoundFile(path) as file:
                tags[path] = file.copy_metadata()
                hours[package] += file.frames / file.samplerate / 3600
        titles = collections.Counter(t.get("title") for t in tags.values())
        for path, tag in tags.items():
            title, artist = tag.get("title", ""), tag.get("artist") or holder
            if titles[title] > 2:  # one title on many pieces is a slip of the tagger
                title = ""
            by = f" by {artist}" if artist else ""
            genre = "" if tag.get("genre") in (None, "Game") else tag["genre"]
            piece = f"{title}{by}, {genre + ' ' if genre else ''}music" if title else f"{genre or 'Music'}{by}"
            record = dict(path=str(path.relative_to(out)), title=title, artist=artist, game=game, licence=licence)
            manifest.write(json.dumps(record | dict(genre=genre, caption=f"{piece} from the game {game}"), ensure_ascii=False) + "\n")
        print(f"{package}: {len(tags)} pieces, {hours[package]:.2f} hours, {licence}")
print(f"{sum(hours.values()):.2f} hours in all")
PYTHON

mv "$work/out/audio" "$work/out/licences" "$folder/"
mv "$work/out/music.jsonl" "$folder/"
echo "wrote $folder/music.jsonl, $folder/audio and $folder/licences"
