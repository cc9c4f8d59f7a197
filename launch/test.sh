#!/usr/bin/env bash
# Installs the project into .venv and runs its tests in two processes of up to 6 GB each.
#   bash launch/test.sh --fast    without the slow tests
#   bash launch/test.sh -n 0      in one process, for a debugger
# Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
setup dev
if [ "${1:-}" = --fast ]; then
  shift
  set -- -m "not slow" "$@"
fi
exec python -m pytest -q -n 2 --dist worksteal "$@"
