"""Starts JAX on several processes, and lets one of them do what must be done once.

`start` comes before anything that uses a device. With more than one process, all of them run the
same program: what one of them leaves out, the others wait for.
"""

import contextlib
import glob
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jen1_numpy.errors import Refusal

WAIT = 600  # seconds until all processes must have come
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
_MESSAGE = 4096  # bytes

T = TypeVar("T")


def start(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the other processes of this program, if there are any.

    They are named by the arguments, or by what a TPU pod, Slurm, Open MPI or an indexed Kubernetes
    job says in the environment. Raises `Refusal` where the others do not come, or where this
    process would train alone though it is one of several.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given):
        if coordinator is None or processes is None or process is None:
            raise Refusal("--coordinator, --processes and --process are given together or not.")
        if not re.fullmatch(r".+:\d+", coordinator) or not 0 <= process < processes:
            raise Refusal(
                "--coordinator is HOST:PORT of process 0, and --process is below --processes; got "
                f"{coordinator}, {process} of {processes}."
            )
        host, _, port = coordinator.rpartition(":")
        _roll_call(host, int(port), processes, process)
        _join(
            f"--coordinator {coordinator}",
            processes,
            coordinator_address=coordinator,
            num_processes=processes,
            process_id=process,
            cluster_detection_method="deactivate",
        )
        return
    where, announced = announcement()
    if announced != 1:
        _join(where, announced)


def announcement() -> tuple[str, int]:
    """Where the environment says how many processes there are, and their number (0: unknown)."""
    env = os.environ
    if "SLURM_STEP_NODELIST" in env:  # of a step that srun has started, not of sbatch's own shell
        return "SLURM_NTASKS", int(env.get("SLURM_NTASKS", 1))
    if "OMPI_COMM_WORLD_SIZE" in env:
        return "OMPI_COMM_WORLD_SIZE", int(env["OMPI_COMM_WORLD_SIZE"])
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if env.get(name):
            slices = int(env.get("MEGASCALE_NUM_SLICES") or 1)
            return name, slices * len(env[name].split(","))
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        return "JOB_COMPLETION_INDEX", 0
    if _has_tpu():
        hosts, slices = map(_metadata, ("worker-network-endpoints", "tpu-env"))
        found = re.search(r"MEGASCALE_NUM_SLICES: *'(\d+)'", slices)
        return "the TPU's metadata", (int(found[1]) if found else 1) * len(hosts.split(","))
    return "the environment", 1


def _has_tpu() -> bool:
    if "tpu" not in os.environ.get("JAX_PLATFORMS", "tpu") or "TPU_SKIP_MDS_QUERY" in os.environ:
        return False
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def _metadata(name: str) -> str:
    """An attribute that Google Cloud gives a machine with a TPU."""
    request = urllib.request.Request(_METADATA + name, headers={"Metadata-Flavor": "Google"})
    reason = ""
    for _ in range(3):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == 404:  # this machine has no such attribute
                return ""
            reason = str(error)
        except OSError as error:
            reason = str(error)
    raise Refusal(
        f"This machine has a TPU, but its metadata do not say how many hosts train ({reason}); set "
        "TPU_SKIP_MDS_QUERY=1 to train on this host alone."
    )


def _join(where: str, announced: int, **options) -> None:
    """Connects to the other processes; `announced` is their number with this one, 0: unknown."""

    def give_up():
        print(f"jen1: {_not_found(where, 'some did not come')}", file=sys.stderr, flush=True)
        os._exit(3)

    # JAX ends the whole process with a stack trace at its own time-out, which is therefore later.
    timer = threading.Timer(WAIT, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(initialization_timeout=2 * WAIT, **options)
        count = jax.process_count()
    except (RuntimeError, ValueError, OSError) as error:
        raise Refusal(_not_found(where, str(error).strip().splitlines()[0])) from None
    finally:
        timer.cancel()
    if announced not in (0, count):
        raise Refusal(
            f"{where} announces {announced} processes, but JAX found {count}, so that each would "
            "train alone; start all of them with --coordinator, --processes and --process."
        )


def _not_found(where: str, reason: str) -> str:
    return (
        f"The processes that {where} announces did not find one another within {WAIT} s "
        f"({reason[:300]}; this is {socket.gethostname()}). Check that all were started, that each "
        "can reach process 0 at its port, and that no other program holds this port."
    )


def _roll_call(host: str, port: int, processes: int, process: int) -> None:
    """Returns when all processes have come to the coordinator; otherwise all raise `Refusal`.

    JAX itself would not say how many came.
    """
    where, deadline = f"--coordinator {host}:{port}", time.monotonic() + WAIT
    left = lambda: max(deadline - time.monotonic(), 0.01)
    if process == 0:
        come: dict[int, socket.socket] = {}
        try:
            with socket.create_server(("", port)) as server:
                while len(come) < processes - 1 and left() > 0.01:
                    server.settimeout(left())
                    with contextlib.suppress(OSError, ValueError):
                        caller, _ = server.accept()
                        caller.settimeout(5)
                        come[int(caller.recv(16))] = caller
        except OSError as error:
            raise Refusal(_not_found(where, error.strerror or str(error))) from None
        missing = [n for n in range(1, processes) if n not in come]
        reason = f"{processes - len(missing)} of {processes} came; missing: {missing[:20]}"
        for caller in come.values():
            with contextlib.suppress(OSError):
                caller.sendall((reason if missing else "all").encode())
                caller.recv(1)  # the other side closes first, so that the port is free at once
            caller.close()
        answer = reason if missing else "all"
    else:
        answer = "process 0 does not answer"
        while left() > 0.01:
            with contextlib.suppress(OSError), socket.create_connection((host, port), left()) as c:
                c.sendall(str(process).encode())
                c.settimeout(left() + 10)
                answer = c.recv(1024).decode() or answer
                break
            time.sleep(0.2)
    if answer != "all":
        raise Refusal(_not_found(where, answer))


def on_first(action: Callable[[], T]) -> T | None:
    """Runs `action` on process 0, while the others wait for its end; they get None.

    All processes call it. A `Refusal` of process 0 is raised by all.
    """
    result, refusal = None, ""
    if jax.process_index() == 0:
        try:
            result = action()
        except Refusal as error:
            refusal = str(error)
    if jax.process_count() > 1:
        message = np.zeros(_MESSAGE, np.uint8)
        sent = np.frombuffer(refusal.encode()[:_MESSAGE], np.uint8)
        message[: len(sent)] = sent
        received = np.asarray(multihost_utils.broadcast_one_to_all(message))
        refusal = received.tobytes().rstrip(b"\0").decode(errors="ignore")
    if refusal:
        raise Refusal(refusal)
    return result
