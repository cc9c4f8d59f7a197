"""Training that is stopped, hangs, or has a bad batch goes on where it can."""

import os
import socket
import subprocess
import sys

import pytest

from jen1_jax import cli
from jen1_jax.training.survival import LAG, Interrupted

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


def test_a_training_that_was_stopped_ends_with_a_status_of_its_own(monkeypatch, capsys):
    def stop(options):
        raise Interrupted("diffusion stopped at step 3")

    monkeypatch.setattr(cli, "train_diffusion", stop)
    assert cli.main(["train", "diffusion", "--config", "quickstart", "--workdir", "x"]) == 75
    assert capsys.readouterr().err == "jen1: diffusion stopped at step 3\n"


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
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
