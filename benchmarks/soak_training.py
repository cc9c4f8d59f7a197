"""Kills a training again and again, and compares its end with that of an undisturbed one.

    python -m benchmarks.soak_training [--kills 20] [--processes 2]

A small diffusion model is trained twice by `jen1 train`. One training is killed (SIGKILL) while it
starts, within its steps and while it saves, and stopped by SIGTERM, each at a random moment, and is
started again by the same command every time. Both must end with the same state bit for bit, and
nothing may be left of what was cut off. Of several processes one gets the signal; SIGTERM must stop
all of them, and after SIGKILL the others are killed too, as by a scheduler. It takes six minutes on
two CPU cores, and more with two processes.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from configs.waveform import get_config as waveform

SECONDS = 0.128
MOMENTS = ("step", "save", "start", "signal")  # in turn


def get_config():
    """A model of a few thousand parameters; this file is the trainings' configuration."""
    config = waveform()
    with config.unlocked():
        config.autoencoder.update(
            strides=(8, 8), channels=(8, 8), dilations=(1,), kernel_size=3, latent_channels=8
        )
        config.text.update(max_length=8, vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_heads=2)
        config.unet.update(
            channels=16,
            multipliers=(1, 1),
            factors=(2,),
            num_blocks=(1,),
            attentions=(0, 1),
            head_dim=4,
            text_features=8,
            conditioning=(),
        )
        config.data.update(seconds=SECONDS, limit=0)
        config.train_autoencoder.update(steps=2, batch_size=4, seconds=SECONDS / 2)
        config.train_autoencoder.stft_windows = (256,)
        config.train_autoencoder.losses.update(adversarial=0.0, feature_matching=0.0)
        config.train_diffusion.update(
            steps=2000, batch_size=4, warmup_steps=0, log_every=5, checkpoint_every=25
        )
    return config


def soak(
    folder: Path, moments: Sequence[str], steps: int, seed: int, processes: int = 1, progress=print
) -> dict[str, Any]:
    """Kills a training at these `moments`, one after the other, and returns figures.

    Raises AssertionError where the two trainings do not end alike.
    """
    rng, began = np.random.default_rng(seed), time.monotonic()
    data, whole, killed = folder / "audio.npz", folder / "whole", folder / "killed"
    write_data(data)
    command = lambda part, run: [
        *(sys.executable, "-m", "jen1_jax.cli", "train", part, "--config", __file__),
        *("--workdir", str(run), f"--config.data.dir={data}"),
        f"--config.train_diffusion.steps={steps}",
    ]
    _finish(_start(command("autoencoder", whole)))
    shutil.copytree(whole, killed)
    _finish(_start(command("diffusion", whole), processes))
    happened, cut = Counter(), 0
    for moment in moments:
        began_at = time.time()
        training = _start(command("diffusion", killed), processes)
        _wait_for(moment, training[0], lambda since=began_at: _unfinished(killed, since), rng)
        chosen = training[rng.integers(processes)]
        if moment == "signal":
            chosen.send_signal(signal.SIGTERM)
            _finish(training, os.EX_TEMPFAIL)
        else:
            chosen.kill()
            time.sleep(rng.uniform(0, 0.5) * (processes - 1))
            for process in training:
                process.kill()
                process.communicate()
            assert chosen.returncode == -signal.SIGKILL, "it had ended before"
        happened[moment] += 1
        cut += bool(_unfinished(killed, began_at))
        progress(f"kill {happened.total()} ({moment}) after {_newest(killed)} saved steps")
    _finish(_start(command("diffusion", killed), processes))
    assert not _unfinished(killed)
    states = [_state(run) for run in (whole, killed)]
    same = [np.array_equal(a, b, equal_nan=True) for a, b in zip(*states, strict=True)]
    assert all(same), f"{same.count(False)} of {len(same)} arrays differ"
    lines = (whole / "diffusion" / "metrics.jsonl").read_text().splitlines()
    resident = [json.loads(line)["resident_gib"] for line in lines]
    middle = len(resident) // 2
    return {
        "processes": processes,
        "kills": dict(happened),
        "cut_off_while_saving": cut,
        "steps": steps,
        "equal_arrays": len(same),
        "resident_mib": round(1024 * resident[-1]),
        "resident_growth_mib": round(1024 * (resident[-1] - resident[middle]), 1),
        "seconds": round(time.monotonic() - began),
    }


def write_data(path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (8, round(SECONDS * 48_000), 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        audio=0.1 * rng.standard_normal(shape, np.float32),
        valid_samples=np.full(8, shape[1]),
        caption=np.array(["slow noise", "fast noise"] * 4),
        test=np.arange(8) == 7,
    )


def _start(command: list[str], processes: int = 1) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    joined = ["--coordinator", address, "--processes", str(processes), "--process"]
    return [
        subprocess.Popen(
            [*command, *joined, str(number)] if processes > 1 else command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]


def _finish(processes: list[subprocess.Popen], status: int = 0) -> None:
    said = [process.communicate(timeout=600)[0] for process in processes]
    found = [process.returncode for process in processes]
    assert found == [status] * len(found), f"{found} is not {status}\n" + "\n".join(said)


def _wait_for(moment: str, process: subprocess.Popen, saves: Callable, rng) -> None:
    """Returns at a random time at which `process` starts, computes or saves."""
    if moment == "start":
        time.sleep(rng.uniform(0, 8))
        return
    assert process.stdout is not None
    lines = (line for line in process.stdout if "steps/s" in line)
    for _ in islice(lines, 1 if moment == "save" else rng.integers(1, 10)):
        pass
    if moment == "save":
        _until(lambda: saves() or process.poll() is not None)
    time.sleep(rng.uniform(0, 0.05))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.001)


def _unfinished(run: Path, since: float = 0.0) -> list[Path]:
    """The checkpoints that are being written, or were when the process was killed."""
    found = []
    for path in (run / "diffusion" / "checkpoints").glob("*.orbax-checkpoint-tmp"):
        with suppress(FileNotFoundError):  # it has just been finished
            found += [path] if path.stat().st_mtime >= since else []
    return found


def _newest(run: Path) -> int:
    found = [path.name for path in (run / "diffusion" / "checkpoints").glob("*")]
    return max((int(name) for name in found if name.isdecimal()), default=0)


def _state(run: Path) -> list[np.ndarray]:
    """All arrays of the newest checkpoint."""
    import jax
    from orbax.checkpoint import v1 as ocp

    folder = run.absolute() / "diffusion" / "checkpoints" / str(_newest(run))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shaped = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        ocp.checkpointables_metadata(folder).metadata["state"],
    )
    loaded = ocp.load_checkpointables(folder, {"state": shaped})
    return [np.asarray(leaf) for leaf in jax.tree.leaves(loaded["state"])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=3000, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        moments = list(islice(cycle(MOMENTS), options.kills))
        print(
            json.dumps(soak(Path(folder), moments, options.steps, options.seed, options.processes))
        )
