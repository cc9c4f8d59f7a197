"""Tracing lists exactly the steps whose batches held a clip."""

import itertools

import pytest
from ml_collections import ConfigDict

from data_pipeline import trace as module
from data_pipeline.shard_data import ShardData
from data_pipeline.trace import trace
from jen1_jax.training.resume import gone_on, position
from jen1_numpy.errors import Refusal
from tests.data_pipeline.test_reading import write

SIZES = (23, 7)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two data sets of short clips, each clip a recording: 0 to 22, and 50 to 56."""
    root = tmp_path_factory.mktemp("trace")
    for name, first, count in zip("ab", (0, 50), SIZES, strict=True):
        write(root / name, first=first, count=count, samples=4800)
    return [str(root / name) for name in "ab"]


def at(data, batch_size, seed):
    """The position that the record of a training on `data` holds."""
    training = ConfigDict({"batch_size": batch_size, "trained": (), "ema_decay": 0.0})
    return position(training, seed, {"data": data.description})


def read(data, steps, caption):
    """The steps whose batches have this caption, once for each row."""
    batches = itertools.islice(data.batches(0), steps)
    return [
        step for step, batch in enumerate(batches) for said in batch["caption"] if said == caption
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"limit": 5}, {"crop": 1000}, {"shares": (3, 2)}, {"shares": (1, 2), "limit": 6}],
)
def test_the_steps_are_those_whose_batches_held_the_clip(folders, options, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 50)
    given = ",".join(folders) if "shares" in options else folders[0]
    data = ShardData(given, 6, seed=-3, **options)
    seen = []
    for number in (0, 4, 22, *((50, 53) if "shares" in options else ())):
        traced = trace(given, [str(number)], at(data, 6, -3), 40)
        steps = sorted(step for those in traced.epochs.values() for step in those)
        assert steps == read(data, 40, f"noise {number}")
        assert traced.clips == 1 and not traced.untraced
        for name, those in traced.epochs.items():
            folder, _, epoch = name.partition(", epoch ")
            assert folder == folders[number >= 50] and len(those) == 1
            assert int(epoch) in range(60)
        seen += steps
    assert len(seen) > 10


def test_a_training_that_goes_on_with_another_batch_size_is_traced_in_both_parts(folders):
    seen = []
    first, second = (ShardData(folders[0], size, seed=1) for size in (6, 4))
    here = gone_on(at(first, 6, 1), at(second, 4, 1), 10)
    for step, batch in enumerate(itertools.islice(first.batches(0), 10)):
        seen += [step] * (batch["index"] == 8).sum()
    for step, batch in enumerate(itertools.islice(second.batches(10 + here["offset"]), 12), 10):
        seen += [step] * (batch["index"] == 8).sum()
    again = gone_on(here, at(second, 4, 1), 15)
    assert again == here and [part["until"] for part in here["earlier"]] == [10]
    traced = trace(folders[0], ["8"], again, 22)
    assert sorted(step for those in traced.epochs.values() for step in those) == seen
    assert len(seen) > 3
    traced = trace(folders[1], ["50"], again, 22)
    assert not traced.epochs and [line.split(" have")[0] for line in traced.untraced] == [
        "steps 0 to 9",
        "steps 10 to 21",
    ]


def test_several_names_and_a_clip_are_found_and_unknown_ones_refused(folders):
    data = ShardData(folders[0], 23, seed=0)
    traced = trace(folders[0], ["3", "5@0.000"], at(data, 23, 0), 2)
    assert traced.clips == 2
    assert str(traced).splitlines()[1:] == [
        f"{folders[0]}, epoch 0: steps 0",
        f"{folders[0]}, epoch 1: steps 1",
    ]
    with pytest.raises(Refusal, match="no recording, clip or rightsholder '99'"):
        trace(folders[0], ["3", "99"], at(data, 23, 0), 2)


def test_neighbouring_steps_are_written_as_a_range():
    assert module._ranges([1, 2, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
