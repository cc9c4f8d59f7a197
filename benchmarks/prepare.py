"""Prepares a source by a process pool and by Apache Beam, compares the results and says how fast.

    python -m benchmarks.prepare SOURCE [--jobs 2] [--folder FOLDER] [--seconds 10.24]

Each prepares SOURCE into a new folder in FOLDER (default: the system's for temporary files), which
is deleted afterwards. Compared are all records of all splits in their order, the pieces, and the
rejected files. Beam runs on this machine with as many processes as the pool; without the package
apache_beam only the pool is measured. CPU time is that of all processes, with their start. The last
line is JSON.
"""

import argparse
import importlib.util
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data_pipeline.hashing import digest

PREPARE = "import sys; from jen1_jax.cli import main; sys.exit(main(sys.argv[1:]))"
COMPARED = "*.array_record-*", "pieces/*.jsonl", "rejected.jsonl"


def beam_flags(processes: int) -> str:
    """Flags of Beam's engine for one machine; DirectRunner would look for another on the net."""
    flags = [
        "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        "--direct_running_mode=multi_processing",
        f"--direct_num_workers={processes}",
    ]
    return shlex.join(flags)


def measured(source: str, out: Path, seconds: float, how: str) -> tuple[dict, dict[str, str]]:
    """What a preparation took, and the SHA-256 of each file that is compared; deletes nothing."""
    options = ["--source", source, "--out", str(out), "--seconds", str(seconds), how]
    before, began = _cpu(), time.monotonic()
    subprocess.run([sys.executable, "-c", PREPARE, "data", "prepare", *options], check=True)
    wall, cpu = time.monotonic() - began, _cpu() - before
    report = json.loads((out / "report.json").read_text())
    hours = sum(report["hours"].values())
    took = dict(
        wall_seconds=round(wall, 1),
        cpu_seconds=round(cpu, 1),
        hours_per_cpu_hour=hours * 3600 / cpu,
    )
    took |= dict(hours=hours, files=report["files"], accepted=report["accepted"])
    paths = sorted(path for pattern in COMPARED for path in out.glob(pattern))
    return took, {str(path.relative_to(out)): digest(path) for path in paths}


def _cpu() -> float:
    """Seconds of all processes that have been started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", help="where the data sets are written")
    parser.add_argument("--seconds", type=float, default=10.24)
    options = parser.parse_args()
    ways = {"pool": f"--jobs={options.jobs}"}
    if importlib.util.find_spec("apache_beam"):
        ways["beam"] = f"--beam={beam_flags(options.jobs)}"
    result, found = {"jobs": options.jobs}, {}
    for name, how in ways.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            out = Path(folder) / "data"
            result[name], found[name] = measured(options.source, out, options.seconds, how)
        print("{}: {wall_seconds} s, {cpu_seconds} s of CPU time".format(name, **result[name]))
    if "beam" in found:
        result["same"] = found["pool"] == found["beam"]
        different = {each for each, _ in found["pool"].items() ^ found["beam"].items()}
        print(f"{len(found['pool'])} files compared; different: {sorted(different) or 'none'}")
    print(json.dumps(result))
    if not result.get("same", True):
        sys.exit(1)


if __name__ == "__main__":
    main()
