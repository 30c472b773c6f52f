"""Being asked to stop: SIGTERM, Ctrl-C, or the cluster's word before a preemption."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax

from jax_vidpred.train.checkpoint import Checkpoints


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
        self.exit_status = 130 if number == signal.SIGINT else 0

    def due(self, checkpoints: Checkpoints, step: int) -> bool:
        """Whether to stop before `step`; the same on all processes."""
        if jax.process_count() > 1:
            # JAX's own notifier takes the signal there and lets all agree on a step.
            return checkpoints.reached_preemption(step)
        return self._received


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Takes SIGTERM and SIGINT as long as it is open."""
    stop = StopRequest()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if jax.process_count() > 1 or not in_main_thread:
        yield stop
        return
    previous = {
        number: signal.signal(number, stop)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
