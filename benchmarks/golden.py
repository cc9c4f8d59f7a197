"""The golden run: one fixed-seed small run whose figures no change may make worse without saying so.

Trains `benchmarks/memorise.py` from scratch (under 10 minutes on two CPU cores), prints the figures beside the last recorded ones
and appends them with the commit to `benchmarks/golden.jsonl`. Speeds are of whatever machine ran it; compare within one machine.

    python -m benchmarks.golden [--no-append]
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
    result = {}
    for name, value in values.items():
        result |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-append", action="store_true", help="print only")
    options = parser.parse_args()
    git = lambda *words: subprocess.run(
        ["git", *words], capture_output=True, text=True, cwd=RECORD.parent
    ).stdout.strip()
    commit = git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    )
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}"
    before = (
        [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    )
    record = {"commit": commit, "device": device} | figures(Path(tempfile.mkdtemp()))
    last = flat(before[-1]) if before else {}
    print(f"{'figure':32} {'now':>12} {'last':>12}")
    for name, value in flat(record).items():
        show = lambda x: f"{x:12.4g}" if isinstance(x, int | float) else f"{x!s:>12}"
        print(f"{name:32} {show(value)} {show(last.get(name, '-'))}")
    if not options.no_append:
        with RECORD.open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
