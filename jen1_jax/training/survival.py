"""Ends training in good order when one of its processes is asked to stop."""

import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

LAG = 2  # steps from asking all processes to reading their answer


class Interrupted(Exception):
    """Training was asked to stop (SIGINT, SIGTERM); its state has been saved."""


@contextmanager
def agreed_stop(mesh: Mesh) -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question with the same answer in every process.

    All processes of the mesh ask it once after every step, and stop when it is true. With several
    of them, each sends over the mesh whether it has received a signal, and reads `LAG` steps later
    whether one of them had. So they stop at the same step, and none waits for a step that has just
    been started. JAX's own notice of a preemption is SIGTERM too, and this handler takes its place.
    A second SIGINT raises KeyboardInterrupt at once.
    """
    received, asked = [], deque()
    per_device = NamedSharding(mesh, P(mesh.axis_names))
    any_device = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))

    def handle(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    def stopped() -> bool:
        if jax.process_count() == 1:
            return bool(received)
        own = np.array([bool(received)])
        flags = jax.make_array_from_callback((mesh.size,), per_device, lambda place: own)
        asked.append(any_device(flags))
        return len(asked) > LAG and bool(asked.popleft())

    try:
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, handle) for number in signals}
    except ValueError:  # not the main thread, which alone may handle signals
        previous = {}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
