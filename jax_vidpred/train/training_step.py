"""The training step: compiled once, started without waiting for the one before."""

import collections
import itertools
import queue
import threading
import time
from collections.abc import Mapping

import jax
import numpy as np

from jax_vidpred.train import rngs
from jax_vidpred.train.flop import flop_of_program
from jax_vidpred.train.mesh import Layout
from jax_vidpred.train.protocol import System
from jax_vidpred.train.state import TrainState

# Steps that may be under way at once. Enough to hide the host behind the device, few
# enough to hold few batches. And on a CPU that plays several devices, more than about
# 32 unfinished programs with a collective wait for each other for ever.
_STEPS_IN_FLIGHT = 8


def traced_step(
    system: System,
    state: TrainState,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    layout: Layout,
) -> jax.stages.Traced:
    """The training step as the loop runs it, to be compiled.

    It takes (state without frozen parameters, these, batch, key), of which the state's
    buffers are used again, and gives (state, scalars).
    """

    def step(state, frozen, batch, key):
        rng = rngs.fold_in(key, state.step)
        # What a device keeps only a part of is collected to compute with.
        whole = state.replace(
            params=layout.gathered(state.params), frozen=layout.gathered(frozen)
        )
        after, scalars = system.train_step(whole, batch, rng)
        # The loop counts, so that a system may take several gradient steps in one.
        return after.replace(step=state.step + 1, frozen={}), scalars

    bare = state.replace(frozen={})
    where = jax.tree.map(lambda leaf: leaf.sharding, bare), layout.replicated
    # Frozen parameters are a second argument because they are not donated.
    compiled = jax.jit(step, donate_argnums=0, out_shardings=where)
    with jax.set_mesh(layout.mesh):  # `gradient_step` splits the batch over it
        return compiled.trace(bare, state.frozen, batch, key)


class TrainingSteps:
    """The compiled training step, called with a bounded number of steps under way."""

    def __init__(
        self,
        system: System,
        state: TrainState,
        example: Mapping[str, np.ndarray],
        seed: int,
        layout: Layout,
    ):
        self._layout = layout
        self._key = layout.born(
            lambda key: rngs.fold_in(key, "train"), jax.random.key(seed)
        )
        self._in_flight: collections.deque[dict[str, jax.Array]] = collections.deque()
        began = time.perf_counter()
        traced = traced_step(
            system, state, layout.put_batch(example), self._key, layout
        )
        self.flop = flop_of_program(traced.jaxpr)
        self._step = traced.lower().compile()
        self.compile_seconds = time.perf_counter() - began
        self._started, self._ready = 0, (0, 0.0)  # steps; the last one done, and when
        self._scalars: queue.SimpleQueue[dict[str, jax.Array] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._note_ready, daemon=True).start()

    def __call__(
        self, state: TrainState, batch: Mapping[str, np.ndarray]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Starts one step; waits only when too many are under way."""
        if len(self._in_flight) == _STEPS_IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())
        after, scalars = self._step(
            state.replace(frozen={}),
            state.frozen,
            self._layout.put_batch(batch),
            self._key,
        )
        self._in_flight.append(scalars)
        self._started += 1
        self._scalars.put(scalars)
        return after.replace(frozen=state.frozen), scalars

    def idle_seconds(self, since: float) -> float:
        """How long nothing has run, of the time since then (of `time.perf_counter`)."""
        number, ready_at = self._ready
        if not number or number < self._started:
            return 0.0
        return max(time.perf_counter() - max(since, ready_at), 0.0)

    def close(self) -> None:
        """Lets go of the thread."""
        self._scalars.put(None)

    def _note_ready(self) -> None:
        """In a thread: when each step was done."""
        for number in itertools.count(1):
            try:
                scalars = self._scalars.get()
                if scalars is None:
                    return
                jax.block_until_ready(scalars)
            except Exception:  # the loop will meet it too
                return
            self._ready = number, time.perf_counter()
