"""What training reports of its speed and its time."""

from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from jen1_jax.models.metrics import read_metrics
from jen1_jax.sharding import make_mesh
from jen1_jax.training.hooks import Profiler
from jen1_jax.training.log import Log
from jen1_jax.training.step import Trainable, init_state
from jen1_jax.training.utilisation import Utilisation
from tests import tiny


def test_the_buckets_add_up_to_the_time_and_the_speed_leaves_out_compiling_and_evaluating(
    tmp_path, monkeypatch
):
    now = [100.0]
    monkeypatch.setattr("jen1_jax.training.log.time", Mock(monotonic=lambda: now[0]))
    training = tiny.config().train_diffusion
    training.update(batch_size=4, steps=3)
    log = Log(
        "model",
        tmp_path,
        0,
        mesh=make_mesh(tiny.config()),
        training=training,
        schedule=lambda step: 0.5,
        audio_seconds=9.0,
        progress=lambda text: None,
    )
    metrics = {name: jnp.zeros(()) for name in ("loss", "skipped", "exploded", "updates")}
    for waits, computes in ((1, 30), (2, 4), (3, 4)):  # seconds; the first step compiles
        with log.timed("data"):
            now[0] += waits
        now[0] += computes
        log.add(metrics, np.arange(4))
    for what in ("checkpoint", "evaluation"):
        with log.timed(what):
            now[0] += 10
    log.write(3)
    log.close()
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    spent = {"compile": 30, "data": 6, "checkpoint": 10, "evaluation": 10, "step": 8}
    assert {key: record[f"seconds/{key}"] for key in spent} == spent
    assert sum(spent.values()) == now[0] - 100
    speed = 2 / (6 + 10 + 8)
    assert record["steps_per_second"] == pytest.approx(speed)
    assert record["audio_hours_per_second"] == pytest.approx(speed * 4 * 9 / 3600)
    assert record["data_wait"] == pytest.approx(6 / 24)
    assert record["learning_rate"] == 0.5 and "mfu" not in record  # nothing is known of a CPU


def test_the_utilisation_is_relative_to_the_peak_of_all_devices():
    product = Trainable(
        init=lambda key: {"w": jnp.ones((5, 7))},
        losses=lambda params, batch, frozen: {"sum": (batch["x"] @ params["model"]["w"]).sum(1)},
        counts=lambda batch: {"sum": jnp.ones(3)},
        weights={"sum": 1.0},
        optimizer=optax.sgd(1.0),
    )
    state = init_state({"model": product}, jax.random.key(0))
    count = [{"model": product}, lambda key, step, batch: batch, state, {"x": jnp.ones((3, 5))}]
    mesh = Mock(spec=Mesh, size=16, devices=Mock(flat=[Mock(device_kind="TPU v5 lite")]))
    used = Utilisation(mesh)
    assert used.figures(2.0) == {}
    used.count(*count, None)
    operations = 3 * 2 * 3 * 5 * 7
    assert used.figures(2.0) == {"mfu": pytest.approx(2 * operations / (16 * 197e12))}
    frozen = Utilisation(mesh)
    frozen.count(*count, {"w": jnp.ones(1)})
    assert frozen.figures(2.0) == {}
    mesh.devices.flat[0].device_kind = "cpu"
    unknown = Utilisation(mesh)
    unknown.count(*count, None)
    assert unknown.figures(2.0) == {}


def test_a_profile_is_written_of_the_steps_that_are_asked_for(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append(("start", path)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    for steps in ((3, 2), (0, 0), (0, 9)):
        profiler = Profiler(tmp_path, *steps)
        profiler.start(0)
        for step in range(1, 8):
            profiler.after_step(step)
            calls.append(step)
        profiler.close()
    start, numbers = ("start", tmp_path / "profile"), list(range(1, 8))
    assert calls == [1, 2, start, 3, 4, "stop", 5, 6, 7, *numbers, start, *numbers, "stop"]
