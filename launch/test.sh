#!/usr/bin/env bash
# Installs the project into .venv and runs its tests, two at a time (6 GB each; `-n 0` for one, as a debugger wants).
# --fast: without the slow ones. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
setup dev
if [ "${1:-}" = --fast ]; then
  shift
  set -- -m "not slow" "$@"
fi
exec python -m pytest -q -n 2 --dist worksteal "$@"
