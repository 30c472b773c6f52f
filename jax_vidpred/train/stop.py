"""Being asked to stop: SIGTERM, Ctrl-C, or the cluster's word before a preemption."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

# JAX lets the processes agree by numbers that must rise, over all runs of a process.
_ASKED = itertools.count()


class StopRequest:
    """Remembers that the process was asked to stop.

    Attributes:
      exit_status: what the process should end with: 0 after SIGTERM, 130 after Ctrl-C.
    """

    def __init__(self):
        self.exit_status = 0
        self._received = False

    def __call__(self, number: int, frame: Any) -> None:
        """The signal handler."""
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt  # the user does not want to wait
        self._received = True
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)  # the others must hear of it
        else:
            self.exit_status = 130 if number == signal.SIGINT else 0

    def due(self) -> bool:
        """Whether to stop before the next step; the same on all processes."""
        if jax.distributed.is_initialized():
            # JAX's own notifier takes SIGTERM there and lets all agree on a step.
            return multihost_utils.reached_preemption_sync_point(next(_ASKED))
        return self._received


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Takes the signals as long as it is open."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT]
    if not jax.distributed.is_initialized():
        numbers.append(signal.SIGTERM)
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
