"""Runs programs on several simulated devices, and in several processes.

The number of devices is fixed when JAX starts, so each program runs in a new process.
"""

import os
import socket
import subprocess
import sys

# A program that hangs ends with the stacks of its threads.
WATCH = "import faulthandler; faulthandler.dump_traceback_later(1200, exit=True)\n"


def run_on(devices: int, program: str, *arguments) -> str:
    """The output of the Python `program` in a process with this number of devices."""
    ((status, printed, errors),) = ended([started(devices, program, *arguments)])
    assert status == 0, errors
    return printed


def started(devices: int, program: str, *arguments) -> subprocess.Popen:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", WATCH + program, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """The exit status, output and errors of each, as soon as all have ended."""
    outputs = [process.communicate() for process in processes]
    return [(each.returncode, *output) for each, output in zip(processes, outputs, strict=True)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
