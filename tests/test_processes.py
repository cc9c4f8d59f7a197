"""Several processes train as one, and each knows of the others or stops."""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout

import jax
import numpy as np
import pytest

from jen1_jax import distributed
from jen1_jax.autoencoder.whitening import Whitening
from jen1_jax.cli import main
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal
from tests import tiny
from tests.devices import ended, free_port, started

CONFIG = """
from tests import tiny


def get_config():
    config = tiny.config()
    config.train_autoencoder.update(batch_size=8, steps=4)
    config.train_diffusion.update(batch_size=8, steps=3, microbatches=2)
    config.unet.update(
        channels=16, multipliers=(1, 1), factors=(2,), num_blocks=(1,), attentions=(0, 1)
    )
    return config.lock()
"""
TRAIN = """
import sys
from jen1_jax.cli import main
from jen1_jax import distributed

distributed.WAIT = 300
sys.exit(main(sys.argv[1:]))
"""


HEAVY = ("adversarial", "feature_matching", "mel")


def train(part, folder, name, processes=1, devices=1, axes=(), *options):
    """Trains by the command `jen1 train` in some processes; returns its run and what each prints.

    One process with one device is this one. `axes` are those of the mesh that differ from the
    preset's.
    """
    (folder / "config.py").write_text(CONFIG)
    data, run = folder / "audio.npz", folder / name
    sizes = [f"--config.mesh.axes.{axis}={size}" for axis, size in dict(axes).items()]
    command = ["train", part, "--config", folder / "config.py", "--workdir", run]
    command += [f"--config.data.dir={data}", *sizes, *options]
    if processes == devices == 1:
        with redirect_stdout(io.StringIO()) as printed:
            assert main([str(each) for each in command]) == 0
        return Run(run), [printed.getvalue()]
    others = ["--coordinator", f"localhost:{free_port()}", "--processes", processes, "--process"]
    found = ended([started(devices, TRAIN, *command, *others, n) for n in range(processes)])
    assert [status for status, *_ in found] == [0] * processes, found
    return Run(run), [printed for _, printed, _ in found]


def losses(run, part):
    return [record["loss"] for record in read_metrics(run.path / part / "metrics.jsonl")]


@pytest.mark.slow
def test_two_processes_train_both_models_as_one_and_the_first_writes(tmp_path):
    tiny.write_audio_npz(tmp_path / "audio.npz")
    # Without losses that take long to compile.
    light = [f"--config.train_autoencoder.losses.{name}=0" for name in HEAVY]
    one, _ = train("autoencoder", tmp_path, "one", 1, 1, {}, *light)
    two, (printed, other) = train("autoencoder", tmp_path, "two", 2, 2, {}, *light)
    assert losses(two, "autoencoder") == pytest.approx(losses(one, "autoencoder"), rel=1e-4)
    ours, theirs = Whitening.load(two.whitening), Whitening.load(one.whitening)
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-3)
    assert "the autoencoder is in" in printed and "autoencoder" not in other
    assert two.record["fingerprints"].keys() == {"autoencoder"}

    # Both models of the same autoencoder, which the run takes over; the heads of a block lie in
    # two processes.
    source = ["--autoencoder", one.path]
    train("diffusion", tmp_path, "alone", 1, 1, {}, *source)
    axes = {"fsdp": 1, "tensor": 4}
    train("diffusion", tmp_path, "both", 2, 2, axes, *source)
    alone, both = (Run(tmp_path / name) for name in ("alone", "both"))
    assert losses(both, "diffusion") == pytest.approx(losses(alone, "diffusion"), rel=1e-4)
    assert both.record["fingerprints"] == alone.record["fingerprints"]
    assert sorted(path.name for path in both.path.iterdir()) == sorted(
        path.name for path in alone.path.iterdir()
    )

    warm = [f"--config.train_diffusion.init_from={alone.path}", *source]
    train("diffusion", tmp_path, "warm", 2, 1, {}, *warm)
    report = (tmp_path / "warm" / "diffusion" / "start.txt").read_text()
    assert " 0 new, " in report


def call(processes, port, come):
    """What the roll call says to each of the processes that `come`: their refusals or None."""

    def answer(process):
        try:
            distributed._roll_call("localhost", port, processes, process)
        except Refusal as refusal:
            return str(refusal)

    with ThreadPoolExecutor(len(come)) as pool:
        return list(pool.map(answer, come))


def test_all_processes_learn_who_did_not_come(monkeypatch):
    monkeypatch.setattr(distributed, "WAIT", 1)
    assert call(3, free_port(), (2, 0, 1)) == [None] * 3
    port = free_port()
    for said in call(3, port, (0, 2)):
        assert f"localhost:{port}" in said and "2 of 3 came; missing: [1]" in said
    (said,) = call(3, free_port(), (1,))
    assert "process 0 does not answer" in said


SLURM = {"SLURM_STEP_NODELIST": "node[1-4]", "SLURM_NTASKS": "4", "SLURM_PROCID": "1"}
POD = {"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}


@pytest.mark.parametrize(
    ("environment", "announced"),
    [
        ({}, 1),
        ({"SLURM_NTASKS": "4"}, 1),  # the shell of a job whose steps have several
        (SLURM, 4),
        (POD, 4),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, 0),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 1),
    ],
)
def test_the_environment_says_how_many_processes_there_are(monkeypatch, environment, announced):
    monkeypatch.setattr(distributed.os, "environ", environment | {"JAX_PLATFORMS": "cpu"})
    assert distributed.announcement()[1] == announced


def test_a_process_that_would_train_alone_is_refused(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: None)
    monkeypatch.setattr(distributed.os, "environ", SLURM)
    with pytest.raises(Refusal, match="SLURM_NTASKS announces 4 processes, but JAX found 1"):
        distributed.start(None, None, None)


def test_detection_that_fails_is_a_refusal(monkeypatch):
    def fail(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    monkeypatch.setattr(distributed.os, "environ", POD)
    with pytest.raises(Refusal, match=r"TPU_WORKER_HOSTNAMES .*coordinator_address"):
        distributed.start(None, None, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("host:1", 2, None), "given together"),
        (("host", 2, 0), "HOST:PORT"),
        (("host:1", 2, 2), "2 of 2"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(given, words):
    with pytest.raises(Refusal, match=words):
        distributed.start(*given)


def test_what_the_first_process_refuses_all_refuse(monkeypatch):
    def refuse():
        raise Refusal("no such run")

    with pytest.raises(Refusal, match="no such run"):
        distributed.on_first(refuse)
    assert distributed.on_first(lambda: 3) == 3
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    multihost = distributed.multihost_utils
    monkeypatch.setattr(multihost, "broadcast_one_to_all", lambda text: sent.append(text) or text)
    with pytest.raises(Refusal, match="no such run"):
        distributed.on_first(refuse)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(multihost, "broadcast_one_to_all", lambda text: sent[0])
    with pytest.raises(Refusal, match="no such run"):
        distributed.on_first(lambda: pytest.fail("only the first process runs it"))


ALONE = """
import sys
from jen1_jax import distributed

distributed.WAIT = 2
options = {"coordinator_address": sys.argv[1], "cluster_detection_method": "deactivate"}
distributed._join("SLURM_NTASKS", 2, num_processes=2, process_id=0, **options)
"""


@pytest.mark.slow
def test_a_process_whose_others_do_not_come_ends_with_a_sentence():
    ((status, _, errors),) = ended([started(1, ALONE, f"localhost:{free_port()}")])
    assert status == 3 and "SLURM_NTASKS" in errors and "Traceback" not in errors
