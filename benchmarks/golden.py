"""The golden run: a small run with a fixed seed, whose figures are recorded for each commit.

    python -m benchmarks.golden [--no-append]

A change that makes these figures worse must say so. It runs `benchmarks/memorise.py` from scratch,
prints its figures beside those recorded last, and appends them with the commit to
`benchmarks/golden.jsonl`. Compare speeds only if they come from the same machine. It needs nothing
else, and takes under 10 minutes on two CPU cores.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from pathlib import Path

import jax

from benchmarks.memorise import figures

RECORD = Path(__file__).with_name("golden.jsonl")


def flat(values: dict, prefix: str = "") -> dict:
    """Nested dictionaries as one, with names such as `memorisation.text.error`."""
    result = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def git(*words: str) -> str:
    folder = RECORD.parent
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, cwd=folder
    ).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--no-append", action="store_true", help="print the figures, but do not record them"
    )
    options = parser.parse_args()
    changed = git("status", "--porcelain", "--untracked-files=no")
    commit = git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}"
    recorded = RECORD.read_text().splitlines() if RECORD.exists() else []
    record = {"commit": commit, "device": device} | figures(Path(tempfile.mkdtemp()))
    last = flat(json.loads(recorded[-1])) if recorded else {}
    print(f"{'figure':32} {'now':>12} {'last':>12}")
    for name, value in flat(record).items():
        show = lambda x: f"{x:12.4g}" if isinstance(x, int | float) else f"{x!s:>12}"
        print(f"{name:32} {show(value)} {show(last.get(name, '-'))}")
    if not options.no_append:
        with RECORD.open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
