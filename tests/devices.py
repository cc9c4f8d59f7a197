"""Runs programs on several simulated devices.

Their number is fixed when JAX starts, so each program runs in a new process.
"""

import os
import subprocess
import sys

# A program that hangs ends with the stacks of its threads.
WATCH = "import faulthandler; faulthandler.dump_traceback_later(1200, exit=True)\n"


def run_on(devices: int, program: str, *arguments) -> str:
    """The output of the Python `program` in a process with this number of devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", WATCH + program, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
