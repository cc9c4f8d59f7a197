"""Training that is stopped, hangs, or has a bad batch goes on where it can."""

import itertools
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jen1_jax import cli
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.metrics import read_metrics
from jen1_jax.training.step import Trainable
from jen1_jax.training.survival import LAG, MAX_ROLL_BACKS, Interrupted
from jen1_numpy.errors import Refusal
from tests import tiny
from tests.devices import free_port
from tests.training.testing import train

ASKED = 3  # step at which one of two processes receives the signal
TWO = f"""if True:
    import signal, sys
    import jax
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
    from jen1_jax.sharding import make_mesh
    from jen1_jax.training.survival import agreed_stop
    from tests import tiny
    with agreed_stop(make_mesh(tiny.config())) as stopped:
        step = 0
        while not stopped():
            step += 1
            if step == {ASKED} and jax.process_index() == 1:
                signal.raise_signal(signal.SIGTERM)
    print("stopped after", step)
"""
HANGS = """if True:
    import sys, time
    from pathlib import Path
    from jen1_jax.training.survival import Watchdog

    closed = Watchdog(Path(sys.argv[1]), 0.2)
    closed.start(0)
    closed.close()
    watchdog = Watchdog(Path(sys.argv[1]), 1)
    watchdog.start(0)
    time.sleep(1.5)
    print("compiled", flush=True)
    watchdog.after_step(1)

    def hang():
        time.sleep(60)

    hang()
"""


def count(directory, bad=(), steps=20, progress=lambda text: None):
    """A training that adds 1 to a number each step, but in the steps `bad`, whose data are NaN."""
    counter = Trainable(
        init=lambda key: {"w": jnp.zeros(())},
        losses=lambda params, batch, frozen: {"sum": -params["counter"]["w"] * batch["x"]},
        counts=lambda batch: {"sum": jnp.ones(1)},
        weights={"sum": 1.0},
        optimizer=optax.sgd(1.0),
    )
    training = tiny.config().train_diffusion
    training.update(batch_size=1, checkpoint_every=6, roll_back_after=3, steps=steps)

    def batches(start, *_):
        for step in itertools.count(start):
            x = np.full(1, np.nan if step in bad else 1, np.float32)
            yield {"x": x, "index": np.array([100 + step])}

    return train(directory, "counter", counter, batches, training, progress=progress)


def test_after_several_skipped_steps_the_checkpoint_returns_and_the_data_go_on(tmp_path):
    bad, messages = range(7, 11), []
    state = count(tmp_path, bad, progress=messages.append)
    # The update of step 6 is lost, and the steps 7 to 10 were skipped; each batch was read once.
    assert int(state.step) == 20 and int(state.updates) == 20 - 1 - len(bad)
    assert float(state.params["counter"]["w"]) == int(state.updates)
    assert any("returned to the state after 6 updates" in message for message in messages)
    skipped = [
        {"step": step, "reason": "not finite", "norm": None, "ids": [100 + step]} for step in bad
    ]
    assert read_metrics(tmp_path / "skipped.jsonl") == skipped


def test_a_training_that_does_not_recover_is_refused_and_its_checkpoint_is_whole(tmp_path):
    with pytest.raises(Refusal, match=f"returned {MAX_ROLL_BACKS} times to the same checkpoint"):
        count(tmp_path, bad=range(7, 100), steps=100)
    assert Checkpoints(tmp_path / "checkpoints").steps[-1] == 6
    assert float(count(tmp_path, steps=8).params["counter"]["w"]) == 8


@pytest.mark.slow
def test_a_hung_step_ends_the_process_with_its_stacks(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", HANGS, tmp_path],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert process.returncode == 75 and process.stdout == "compiled\n", process.stderr
    stacks = (tmp_path / "hang-0.txt").read_text()
    assert all(" in hang\n" in text for text in (stacks, process.stderr))
    assert "hang_after" in process.stderr


def test_a_training_that_was_stopped_ends_with_a_status_of_its_own(monkeypatch, capsys):
    def stop(options):
        raise Interrupted("diffusion stopped at step 3")

    monkeypatch.setattr(cli, "train_diffusion", stop)
    assert cli.main(["train", "diffusion", "--config", "quickstart", "--workdir", "x"]) == 75
    assert capsys.readouterr().err == "jen1: diffusion stopped at step 3\n"


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step():
    address = f"localhost:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, address, str(index)],
            env=os.environ | {"PYTHONPATH": os.getcwd()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    last = [out.splitlines()[-1] for out, _ in results]
    assert last == [f"stopped after {ASKED + LAG}"] * 2


def test_only_a_training_deletes_what_was_left_unfinished(tmp_path):
    unfinished = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    reads = Checkpoints(tmp_path / "checkpoints")
    assert reads.latest is None and unfinished.exists()
    count(tmp_path, steps=6)
    assert not unfinished.exists()
