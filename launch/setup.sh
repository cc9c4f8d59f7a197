# shellcheck shell=bash
# Other scripts source this file from the checkout's root. `setup EXTRA` installs the project with
# that extra (or several, as in `setup train,midi`) into .venv and puts .venv first on the PATH. It
# installs again only when pyproject.toml or launch/constraints.txt has changed.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer with the venv module is needed." >&2
  echo "Install it, or give its path: PYTHON=/path/to/python." >&2
  return 1
}

setup() {
  local extra=$1 state stamp python
  if [ ! -x .venv/bin/pip ]; then
    python=$(find_python) || exit 1
    "$python" -m venv .venv
    .venv/bin/pip install --quiet --upgrade pip
  fi
  state=$(cat pyproject.toml launch/constraints.txt | cksum)
  stamp=.venv/installed-$extra
  if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
    echo "Installing into .venv. The first installation downloads several gigabytes."
    .venv/bin/pip install --quiet --constraint launch/constraints.txt --editable ".[$extra]"
    case ,$extra, in
      *,midi,* | *,dev,*)  # its dependency pyaudio often has to be compiled, and is not used
        .venv/bin/pip install --quiet --constraint launch/constraints.txt --no-deps tinysoundfont
        ;;
    esac
    echo "$state" >"$stamp"
  fi
  PATH=$PWD/.venv/bin:$PATH
}
