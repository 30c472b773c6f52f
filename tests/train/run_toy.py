"""A warm process whose children train the toy system; the tests kill the children.

Importing takes seconds, forking takes none, so that a test can afford many processes.
JAX starts its threads and devices in the child only. One line of JSON on stdin starts a
child; its process id and, when it has ended, its exit status (negative: the signal) are
the answers on stdout. A job has `workdir`, `log`, `result` and changes of `toy_train`.
"""

import json
import os
import sys
import time
import traceback

import jax
import numpy as np
from absl import flags
from conftest import ToySystem, toy_train, toy_train_batches

from jax_vidpred import command


class HeavySystem(ToySystem):
    """The toy system with so many random numbers beside it that writing takes time."""

    def __init__(self, ballast: int):
        super().__init__()
        self.ballast = ballast

    def init(self, rng, batch):
        state = super().init(rng, batch)
        ballast = jax.random.bits(rng, (self.ballast,))  # cannot be compressed
        return state.replace(extra={**state.extra, "ballast": ballast})

    def after_evaluation(self, now, summary):
        extra = super().after_evaluation(now, summary).extra
        return now.replace(extra={**now.extra, **extra})


def announced_batches(first_step: int, pause: float):
    """Says in the log that the training goes on, and takes its time."""
    for batch in toy_train_batches(first_step):
        print("batch", flush=True)
        time.sleep(pause)
        yield batch


def train(*, result, ballast=1, pause=0.0, **changes) -> int:
    """Trains and leaves all arrays of the state in a file."""
    state = toy_train(
        system=HeavySystem(ballast),
        train_batches=lambda first_step: announced_batches(first_step, pause),
        **changes,
    )
    np.savez(result, *map(np.asarray, jax.tree.leaves(state.replace(frozen={}))))
    return 0


def main():
    flags.FLAGS.mark_as_parsed()
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            log = os.open(job.pop("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for number in (1, 2):
                os.dup2(log, number)
            try:
                status = command.run("toy", lambda job=job: train(**job))
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
