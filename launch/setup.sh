# Sourced by the other scripts, from the checkout's root: `setup EXTRA` installs the project with that extra into .venv, once for
# each state of setup.py and launch/constraints.txt, and puts .venv first on the PATH.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "This needs Python 3.11 or newer with the venv module; install one, or name it with PYTHON=/path/to/python." >&2
  return 1
}

setup() {
  local extra=$1 state stamp python
  if [ ! -x .venv/bin/pip ]; then
    python=$(find_python) || exit 1
    "$python" -m venv .venv
    .venv/bin/pip install --quiet --upgrade pip
  fi
  state=$(cat setup.py launch/constraints.txt | cksum)
  stamp=.venv/installed-$extra
  if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
    echo "installing into .venv (the first time this downloads gigabytes; PyTorch with CUDA, which only the tests want, is most of it)"
    .venv/bin/pip install --quiet --constraint launch/constraints.txt --editable ".[$extra]"
    echo "$state" >"$stamp"
  fi
  PATH=$PWD/.venv/bin:$PATH
}
