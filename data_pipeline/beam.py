"""Prepares units on the workers of an Apache Beam runner: Dataflow, Flink, Spark or this machine.

All workers must have this project installed, and see the data set's folder and the source under the
same paths, in a file system with locks.
"""

import fcntl
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from data_pipeline import local
from data_pipeline.units import Plan, Unit, outcomes_file
from jen1_jax.files import Unfinished

TODO = "todo.jsonl"
SECONDS = 5  # between two looks at what is complete


def prepare_units(plan: Plan, units: Iterable[Unit], flags: Sequence[str]) -> Iterator[int]:
    """Prepares units in one pipeline with these flags, and yields their numbers.

    A worker prepares one unit after the other, as `local.prepare_units` does in one process.

    Raises:
        Unfinished: Beam does not know the flags.
        OSError: the pipeline has ended and units lack.
    """
    todo = plan.folder / TODO
    missing = set()
    places = []  # a pipeline's description must stay small, so it says only where a unit stands
    with open(todo, "w") as file:
        for unit in units:
            missing.add(unit.number)
            places.append(file.tell())
            file.write(json.dumps(asdict(unit)) + "\n")
    try:
        pipeline = apache_beam.Pipeline(options=PipelineOptions(flags))
    except ValueError as error:
        raise Unfinished(f"Apache Beam refuses --beam ({error}); correct its flags.") from None
    numbers = pipeline | apache_beam.Create(places) | apache_beam.Reshuffle()
    numbers | apache_beam.Map(_prepare, plan)
    result = pipeline.run()
    try:
        ended = False
        while missing and not ended:
            ended = PipelineState.is_terminal(result.state)
            complete = {each for each in missing if outcomes_file(plan.folder, each).exists()}
            yield from sorted(complete)
            missing -= complete
            if missing and not ended:
                time.sleep(SECONDS)
        result.wait_until_finish()
    finally:
        if not PipelineState.is_terminal(result.state):
            result.cancel()
    if missing:
        raise OSError(
            f"the pipeline has ended and {len(missing)} of {len(places)} units are not in "
            f"{plan.folder}, which all its workers must share"
        )


def _prepare(place: int, plan: Plan) -> None:
    """Prepares the unit that stands at this place of the file, unless it is complete.

    A runner may do a unit again while a worker that it has lost still does it, so the later one
    waits.
    """
    with open(plan.folder / TODO) as file:
        file.seek(place)
        unit = Unit(**json.loads(file.readline()))
    with open(_lock(plan.folder, unit.number), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Of two processes only one begins, because there is one unit. It is not this one, so that
        # it has limits of time and memory, and a crash costs one recording.
        for _ in local.prepare_units(plan, [unit], jobs=2):
            pass


def _lock(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.lock"
