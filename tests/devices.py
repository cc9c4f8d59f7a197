"""Several simulated devices: JAX counts them when it starts, so what wants them has a process of its own."""

import os
import subprocess
import sys


def run_on(devices: int, program: str, *arguments) -> str:
    """What the Python `program` prints, in a process that finds so many devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
