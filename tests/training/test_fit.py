"""The training loop: a resumed run ends with the same result as an uninterrupted one."""

import ctypes
import itertools
import json
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.diffusion import train_diffusion
from jen1_jax.training.hooks import Hook
from jen1_jax.training.npz import NpzData
from jen1_jax.training.step import Trainable
from jen1_jax.training.survival import Interrupted
from jen1_numpy.errors import Refusal
from tests import tiny
from tests.training.testing import train


def data(tmp_path, crop=3072):
    return NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0, crop=crop)


class StopsAt(NpzData):
    """Sends SIGTERM while the loop waits for the batch of one step."""

    stop: int

    def batches(self, start_step, around=0, rows=None):
        for step, batch in enumerate(super().batches(start_step, around, rows), start_step):
            if step == self.stop:
                signal.raise_signal(signal.SIGTERM)
            yield batch


def losses(run: Run, part: str) -> list[tuple[int, float]]:
    records = read_metrics(run.path / part / "metrics.jsonl")
    return [(record["step"], record["loss"]) for record in records]


def checkpoint(run: Run, part: str) -> list[np.ndarray]:
    """All arrays of the newest checkpoint, as they are stored."""
    from orbax.checkpoint import v1 as ocp

    latest = Checkpoints(run.checkpoints(part)).latest
    folder = run.checkpoints(part).absolute() / str(latest)
    loaded = ocp.load_checkpointables(folder, {"state": None})
    return [np.asarray(leaf) for leaf in jax.tree.leaves(loaded["state"])]


def assert_same_checkpoint(one: Run, other: Run, part: str) -> None:
    for ours, theirs in zip(checkpoint(one, part), checkpoint(other, part), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    config = tiny.config()
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    train_autoencoder(config, whole, data(tmp_path))

    interrupted = StopsAt(str(tmp_path / "audio.npz"), 4, seed=0, crop=3072)
    interrupted.stop = 2
    with pytest.raises(Interrupted, match="step 3"):
        train_autoencoder(config, stopped, interrupted)
    with pytest.raises(Refusal, match="not trained to its end"):
        load_codec(Run.open(stopped.path))
    train_autoencoder(config, stopped, data(tmp_path))

    assert losses(stopped, "autoencoder") == losses(whole, "autoencoder")
    assert [step for step, _ in losses(whole, "autoencoder")] == [1, 2, 3, 4, 5, 6]
    assert_same_checkpoint(stopped, whole, "autoencoder")
    codecs = [load_codec(Run.open(run.path)) for run in (stopped, whole)]
    assert codecs[0].fingerprint == codecs[1].fingerprint

    # The diffusion model, on waveforms that are encoded in the step.
    for run in (whole, stopped):
        waveforms = StopsAt(str(tmp_path / "audio.npz"), 6, seed=0)
        waveforms.stop = 3 if run is stopped else -1
        if run is stopped:
            with pytest.raises(Interrupted, match="step 4"):
                train_diffusion(config, run, waveforms)
            waveforms.stop = -1
        train_diffusion(config, run, waveforms)
    assert losses(stopped, "diffusion") == losses(whole, "diffusion")
    assert_same_checkpoint(stopped, whole, "diffusion")
    record = json.loads((whole.path / "config.json").read_text())
    assert record["fingerprints"].keys() == {"autoencoder", "text"}
    metrics = read_metrics(whole.path / "diffusion" / "metrics.jsonl")[-1]
    tasks = {"loss/text_to_music", "loss/inpainting", "loss/continuation"}
    assert tasks | {"steps_per_second", "grad_norm"} <= metrics.keys()
    assert list((whole.path / "diffusion" / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_loss_that_is_infinite_from_the_start_stops_the_run(tmp_path):
    path = tiny.write_audio_npz(tmp_path / "audio.npz")
    arrays = dict(np.load(path))
    arrays["audio"] = np.full_like(arrays["audio"], np.nan)
    np.savez(path, **arrays)
    config = tiny.config()
    config.train_autoencoder.roll_back_after = 3
    messages, data = [], NpzData(str(path), 4, seed=0, crop=3072)
    with pytest.raises(Refusal, match="no checkpoint yet"):
        train_autoencoder(config, Run(tmp_path / "run"), data, progress=messages.append)
    records = ", ".join(map(str, next(data.batches(0))["index"]))
    skipped = f"the loss of step 0 was not finite; skipped its batch, records {records}"
    assert f"autoencoder: {skipped}" in messages


class Stops(Hook):
    """Receives a signal while the loop calls it after step 3; `broken` fails in `close`."""

    def __init__(self, broken=False):
        self.broken, self.closed = broken, False

    def after_step(self, step):
        if step == 3 and not self.broken:
            signal.raise_signal(signal.SIGTERM)

    def close(self):
        self.closed = True
        if self.broken:
            raise RuntimeError("close")


def count_to_six(directory, *hooks):
    """Six steps of a training that adds 1 to a number, without a checkpoint before the last."""
    counter = Trainable(
        init=lambda key: {"w": jnp.zeros(2)},
        losses=lambda params, batch, frozen: {"sum": -params["counter"]["w"].sum() * jnp.ones(1)},
        counts=lambda batch: {"sum": jnp.ones(1)},
        weights={"sum": 1.0},
        optimizer=optax.sgd(1.0),
    )
    training = tiny.config().train_diffusion
    training.update(batch_size=1, checkpoint_every=100)
    batches = lambda *_: itertools.repeat({"x": np.zeros(1, np.float32)})
    return train(directory, "counter", counter, batches, training, hooks=hooks)


def test_a_signal_during_a_hook_saves_the_state_before_training_stops(tmp_path):
    with pytest.raises(Interrupted):
        count_to_six(tmp_path, Stops())
    steps = Checkpoints(tmp_path / "checkpoints").steps
    assert steps and steps[-1] in (3, 4)
    state = count_to_six(tmp_path)
    assert np.asarray(state.params["counter"]["w"]).tolist() == [6, 6]


def test_a_hook_that_fails_to_close_costs_neither_the_checkpoint_nor_the_other_hooks(tmp_path):
    other = Stops()
    other.after_step = lambda step: None
    with pytest.raises(RuntimeError, match="close"):
        count_to_six(tmp_path, other, Stops(broken=True))
    assert other.closed and Checkpoints(tmp_path / "checkpoints").latest == 6


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again_without_new_page_faults():
    code = """if True:
        import resource
        from jen1_jax.training.loop import keep_freed_memory

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            bytearray(b"x") * 2**26  # freed at once
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        faults(), print(faults())
        keep_freed_memory()
        faults(), print(faults())
    """
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    default, kept = map(int, result.stdout.split())
    assert kept < 10 < default  # faults of 2^14 pages, or of fewer larger pages
