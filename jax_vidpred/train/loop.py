"""The only training loop: trains any system of `protocol.py`, and resumes exactly."""

import collections
import contextlib
import itertools
import json
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_vidpred.train import rngs
from jax_vidpred.train.checkpoint import Checkpoints
from jax_vidpred.train.evaluate import check_keys, evaluate
from jax_vidpred.train.measurements import Measurements
from jax_vidpred.train.mesh import born_sharded, make_mesh, put_batch, replicated
from jax_vidpred.train.periodic import Clock, ProgressDisplay, is_due
from jax_vidpred.train.protocol import System
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.writers import make_writer

# Steps that may be under way at once. Enough to hide the host behind the device, few
# enough to hold few batches. And on a CPU that plays several devices, more than about
# 32 unfinished programs with a collective wait for each other for ever.
_STEPS_IN_FLIGHT = 8


def train(
    system: System,
    *,
    train_batches: Callable[[], grain.IterDataset],
    eval_batches: Callable[[], Iterable[dict[str, np.ndarray]]],
    num_steps: int,
    log_every: int,
    eval_every: int,
    checkpoint_every: int,
    seed: int,
    workdir: str | pathlib.Path,
    config_json: str = "{}",
    keep: int = 2,
    best_metric: str | None = None,
    best_mode: str = "max",
    mesh: Mesh | None = None,
    title: str | None = None,
) -> TrainState:
    """Trains `system`, or goes on where the run in `workdir` stopped.

    The same call again resumes: state and place in the data come from the latest
    checkpoint, random keys from (seed, step), so the result is bit for bit that of a
    run that never stopped. SIGTERM (exit status 0) and Ctrl-C (130) save a checkpoint
    first; a second Ctrl-C does not wait.

    Args:
      system: what to train.
      train_batches: makes the endless dataset of batches (NumPy, this process's part);
        a grain one, since its place must be saved.
      eval_batches: makes one pass over the evaluation split; every batch of the same
        shape, padding marked in `mask`.
      num_steps: of the whole run.
      log_every: steps between measurements; they are means over these steps.
      eval_every: steps between evaluations; there is one at the end besides.
      checkpoint_every: steps between checkpoints; there is one at the end besides.
      seed: of all random keys.
      workdir: for checkpoints and measurements.
      config_json: of the run, stored with each checkpoint.
      keep: number of latest checkpoints to keep.
      best_metric: metric of the evaluation by which the best checkpoint is kept too.
      best_mode: "max" or "min".
      mesh: devices; all when None.
      title: name in the progress display; the class of the system when None.

    Returns:
      The state after `num_steps` steps, or more where the run was longer.

    Raises:
      TrainingDiverged: the loss or another scalar is not finite any more.
      CheckpointError: a checkpoint cannot be read or written.
      ValueError: batches that the system cannot use.
    """
    mesh = make_mesh() if mesh is None else mesh
    config = json.loads(config_json)
    iterator = iter(train_batches())
    if not isinstance(iterator, grain.DatasetIterator):
        raise ValueError(
            f"train_batches gave a {type(iterator).__name__}: wanted a grain dataset,"
            " whose place can be saved; end the pipeline with .to_iter_dataset()"
        )
    example = _peek(iterator)
    check_keys(system, example)
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(
            workdir, keep=keep, best_metric=best_metric, best_mode=best_mode
        )
        stack.callback(checkpoints.close)
        fresh = born_sharded(
            system.init, mesh, rngs.for_step(seed, "init", 0), put_batch(example, mesh)
        )
        state = checkpoints.restore_latest(fresh, iterator)
        resumed = state is not None
        if not resumed:
            state = fresh
        start = int(state.step)
        display = ProgressDisplay(title or type(system).__name__, num_steps, start)
        if start >= num_steps:
            display.say(f"already trained for {start} steps in {workdir}")
            return state
        if resumed:
            display.say(f"goes on after step {start} of {workdir}")
        writer = make_writer(workdir, log=not display.interactive)
        stack.callback(writer.close)
        if not resumed and config:
            writer.write_hparams(config)
        stop = stack.enter_context(_stop_signals())
        stack.enter_context(display)

        # One batch of evaluation before the first step: its errors show in minute one.
        began = time.perf_counter()
        tried = evaluate(
            system,
            state,
            itertools.islice(eval_batches(), 1),
            rngs.for_step(seed, "eval", start),
            mesh=mesh,
        )
        if best_metric is not None and best_metric not in tried:
            raise ValueError(
                f"best_metric={best_metric!r} is not measured: the evaluation gives"
                f" {sorted(tried)}; choose one of these"
            )
        display.say(f"evaluation compiled in {time.perf_counter() - began:.1f} s")
        steps = _Steps(system, state, example, seed, mesh)
        display.say(f"training step compiled in {steps.compile_seconds:.1f} s")
        writer.write_scalars(start, {"train/compile_seconds": steps.compile_seconds})

        measurements, clock = Measurements(), Clock()
        batch_size = len(next(iter(example.values()))) * jax.process_count()

        def log_previous_period():
            measured = measurements.take()
            if measured is None:
                return
            step, count, scalars = measured
            scalars |= clock.lap(count, batch_size)
            writer.write_scalars(step, {f"train/{k}": v for k, v in scalars.items()})
            display.update(step, scalars)

        for step in itertools.count(start):
            # What was restored had been evaluated when it was saved; a second reaction
            # of the system to the evaluation would make it another run.
            new = step > start
            summary = None
            # Evaluate before saving: the checkpoint then holds the system's reaction,
            # and the score that tells which checkpoint is the best.
            if new and is_due(step, eval_every, num_steps):
                log_previous_period()
                measurements.check()
                with clock.paused():
                    summary = evaluate(
                        system,
                        state,
                        eval_batches(),
                        rngs.for_step(seed, "eval", step),
                        mesh=mesh,
                    )
                    state = _react(system, state, summary, mesh)
                writer.write_scalars(step, {f"eval/{k}": v for k, v in summary.items()})
                display.say(f"step {step}, evaluation: {_listing(summary)}")
            # Save before the next batch is fetched: the saved place in the data is then
            # that of exactly `step` batches.
            preempted = stop.requested(checkpoints, step)
            if new and (preempted or is_due(step, checkpoint_every, num_steps)):
                # Never save what has diverged: the last good checkpoint stays.
                log_previous_period()
                measurements.check()
                with clock.paused():
                    checkpoints.save(
                        step, state, iterator, config=config, summary=summary
                    )
            if step == num_steps or preempted:
                checkpoints.wait()
                break
            began = time.perf_counter()
            batch = _next(iterator, step)
            if steps.idle:
                clock.count_wait(time.perf_counter() - began)
            state, scalars = steps(state, batch)
            measurements.add(step + 1, scalars)
            # Last, log the period before: it is computed, or nearly, while this step is
            # under way, so that nothing waits for the logging.
            log_previous_period()
            if is_due(step + 1, log_every, num_steps):
                measurements.end_period(step + 1)
        if preempted:
            saved = "saved" if new else "nothing to save"
            display.say(f"stopped after step {step}, {saved}; the same line goes on")
            raise SystemExit(stop.exit_status)
        display.say(f"finished {num_steps} steps in {workdir}")
    return state


class _Steps:
    """The compiled training step, called with a bounded number of steps under way."""

    def __init__(
        self,
        system: System,
        state: TrainState,
        example: Mapping[str, np.ndarray],
        seed: int,
        mesh: Mesh,
    ):
        def step(state, frozen, batch, key):
            rng = rngs.fold_in(key, state.step)
            after, scalars = system.train_step(state.replace(frozen=frozen), batch, rng)
            # The loop counts, so that a system may take several gradient steps in one.
            return after.replace(step=state.step + 1, frozen={}), scalars

        self._mesh = mesh
        self._key = born_sharded(
            lambda key: rngs.fold_in(key, "train"), mesh, jax.random.key(seed)
        )
        self._in_flight: collections.deque[dict[str, jax.Array]] = collections.deque()
        began = time.perf_counter()
        self._step = (
            # Frozen parameters are a second argument because they are not donated.
            jax.jit(step, donate_argnums=0, out_shardings=replicated(mesh))
            .lower(
                state.replace(frozen={}),
                state.frozen,
                put_batch(example, mesh),
                self._key,
            )
            .compile()
        )
        self.compile_seconds = time.perf_counter() - began

    def __call__(
        self, state: TrainState, batch: Mapping[str, np.ndarray]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Starts one step; waits only when too many are under way."""
        if len(self._in_flight) == _STEPS_IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())
        after, scalars = self._step(
            state.replace(frozen={}),
            state.frozen,
            put_batch(batch, self._mesh),
            self._key,
        )
        self._in_flight.append(scalars)
        return after.replace(frozen=state.frozen), scalars

    @property
    def idle(self) -> bool:
        """Whether all steps so far are done, and at least one was."""
        return bool(self._in_flight) and all(
            scalar.is_ready() for scalar in self._in_flight[-1].values()
        )


class _StopSignals:
    """Remembers that the process was asked to stop."""

    def __init__(self):
        self.exit_status = 0
        self._received = False

    def __call__(self, number: int, frame: Any) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt  # the user does not want to wait
        self._received = True
        self.exit_status = 130 if number == signal.SIGINT else 0

    def requested(self, checkpoints: Checkpoints, step: int) -> bool:
        """Whether to stop before `step`; the same on all processes."""
        if jax.process_count() > 1:
            # JAX's own notifier takes the signal there and lets all agree on a step.
            return checkpoints.reached_preemption(step)
        return self._received


@contextlib.contextmanager
def _stop_signals() -> Iterator[_StopSignals]:
    stop = _StopSignals()
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


def _peek(iterator: grain.DatasetIterator) -> dict[str, np.ndarray]:
    place = iterator.get_state()
    example = _next(iterator, 0)
    iterator.set_state(place)
    return example


def _next(iterator: grain.DatasetIterator, step: int) -> dict[str, np.ndarray]:
    try:
        return next(iterator)
    except StopIteration:
        raise ValueError(
            f"the training data ended after {step} batches: add .repeat() to the"
            " pipeline, or examples where there are fewer than one batch"
        ) from None


def _react(
    system: System, state: TrainState, summary: dict[str, float], mesh: Mesh
) -> TrainState:
    """`system.after_evaluation`, with types of the arrays kept."""
    extra = system.after_evaluation(state, summary).extra
    types = jax.tree.map(lambda old: old.dtype, state.extra)

    def fit(extra):
        return jax.tree.map(lambda new, dtype: jnp.asarray(new, dtype), extra, types)

    return state.replace(extra=born_sharded(fit, mesh, extra))


def _listing(scalars: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
