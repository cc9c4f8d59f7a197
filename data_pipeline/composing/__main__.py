"""`python -m data_pipeline.composing DIR --hours H`: writes scores into DIR/scores.

`launch/composed_music.sh` calls it after it has fetched MMA into DIR/mma.
"""

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

from data_pipeline.composing import accompaniment, grooves, pieces
from jen1_numpy.errors import Refusal
from jen1_numpy.files import whole_file, write_text


@functools.cache
def families(tool: Path) -> list[grooves.Family]:
    return grooves.read(tool / "share" / "mma" / "lib")


def accompany(tool: Path, family, played, form, seed: int, flats: bool):
    """The accompaniment of a form by MMA."""
    text = accompaniment.script(family, played, form.bars, seed, flats)
    with tempfile.TemporaryDirectory() as folder:
        midi = Path(folder) / "out.mid"
        accompaniment.run(tool, text, midi)
        return accompaniment.parts(midi, family.bar / family.beats)


def write(number: int, seed: int, folder: Path, tool: Path) -> float:
    """Writes one score, unless it is there, and returns its length in seconds.

    The MIDI file is written last: where it is, the score is complete.
    """
    sidecar, midi = (folder / f"{seed}-{number:06d}{suffix}" for suffix in (".json", ".mid"))
    if midi.exists():
        return json.loads(sidecar.read_text())["seconds"]
    piece = pieces.compose(seed, number, families(tool), functools.partial(accompany, tool))
    write_text(sidecar, json.dumps(piece.about, separators=(",", ":")))
    with whole_file(midi) as partial:
        partial.write_bytes(piece.score.midi())
    return piece.about["seconds"]


def write_all(folder: Path, hours: float, seed: int, tool: Path) -> tuple[int, float]:
    """Writes the first scores of a seed that last `hours` together, on all cores.

    Returns:
        (number of scores, their seconds).
    """
    count, seconds, start = 0, 0.0, time.monotonic()
    one = functools.partial(write, seed=seed, folder=folder, tool=tool)
    with ThreadPool(len(os.sched_getaffinity(0))) as pool:  # MMA takes most of the time
        while seconds < hours * 3600:
            # No score is longer than LONGEST, so none of these is too many.
            more = max(1, int((hours * 3600 - seconds) / pieces.LONGEST))
            for length in pool.imap_unordered(one, range(count, count + more)):
                count, seconds = count + 1, seconds + length
                if count % 50 == 0:
                    print(
                        f"{count} scores, {seconds / 3600:.1f} of {hours:g} hours, "
                        f"{(time.monotonic() - start) / 60:.1f} minutes",
                        flush=True,
                    )
    return count, seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="composing", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where launch/composed_music.sh put MMA")
    parser.add_argument("--hours", type=float, required=True, help="of music")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tool = args.folder / "mma"
    if not (tool / "bin" / "mma").exists():
        raise Refusal(f"{tool} does not hold MMA; start launch/composed_music.sh instead.")
    scores = args.folder / "scores"
    scores.mkdir(exist_ok=True)
    count, seconds = write_all(scores, args.hours, args.seed, tool)
    size = sum(path.stat().st_size for path in scores.iterdir())
    print(
        f"wrote {count} scores, {seconds / 3600:.2f} hours, into {scores}, "
        f"which holds {size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        print(f"composing: {refusal}", file=sys.stderr)
        sys.exit(3)
