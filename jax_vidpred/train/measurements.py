"""Training scalars on their way from the device to the log, one period late."""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


class TrainingDiverged(ArithmeticError):
    """A training scalar is NaN or infinite; the message names step and terms.

    Attributes:
      step: the number of the step, counted from 1.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


@flax.struct.dataclass
class _Period:
    """Sums of a logging period, and where they first went wrong."""

    sums: dict[str, jax.Array]
    bad_step: jax.Array  # -1 while everything is finite
    bad_scalars: dict[str, jax.Array]  # of that step


class Measurements:
    """Means of the training scalars over logging periods.

    Sums are kept on the device: adding a step waits for nothing. Only `take` and
    `check` wait for the steps that they speak of.
    """

    def __init__(self):
        self._period: _Period | None = None
        self._count = 0
        self._ended: tuple[int, _Period, int] | None = None

    def add(self, step: int, scalars: Mapping[str, jax.Array]) -> None:
        """The scalars of step number `step` (the first one is 1)."""
        if self._period is None:
            self._period = _begin(dict(scalars))
            self._count = 0
        self._period = _add(self._period, dict(scalars), np.int32(step))
        self._count += 1

    def end_period(self, step: int) -> None:
        """The period ends with `step`; what follows belongs to the next one."""
        self._ended = (step, self._period, self._count)
        self._period = None

    def take(self) -> tuple[int, int, dict[str, float]] | None:
        """A period that ended, once: last step, number of steps, means; else None.

        Raises:
          TrainingDiverged: something in it is not finite.
        """
        if self._ended is None:
            return None
        (step, period, count), self._ended = self._ended, None
        period = _fetch_finite(period)
        means = {name: float(v) / count for name, v in period.sums.items()}
        return step, count, means

    def check(self) -> None:
        """Waits for all steps so far.

        Raises:
          TrainingDiverged: something is not finite.
        """
        if self._period is not None:
            _fetch_finite(self._period)


def _fetch_finite(period: _Period) -> _Period:
    period = jax.device_get(period)
    if period.bad_step >= 0:
        bad = {k: v for k, v in period.bad_scalars.items() if not np.isfinite(v)}
        fine = {k: v for k, v in period.bad_scalars.items() if np.isfinite(v)}
        raise TrainingDiverged(
            f"not finite at step {period.bad_step}: {_listing(bad)} (finite:"
            f" {_listing(fine)})",
            int(period.bad_step),
        )
    return period


def _listing(scalars: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{k}={float(v):.4g}" for k, v in scalars.items()) or "nothing"


@jax.jit
def _begin(scalars: dict[str, jax.Array]) -> _Period:
    for name, value in scalars.items():
        if jnp.shape(value):
            raise ValueError(
                f"train_step returned {name!r} of shape {jnp.shape(value)}: wanted"
                " scalars"
            )
    zeros = jax.tree.map(lambda _: jnp.zeros((), jnp.float32), scalars)
    return _Period(
        sums=zeros, bad_step=jnp.full((), -1, jnp.int32), bad_scalars=dict(zeros)
    )


@jax.jit
def _add(period: _Period, scalars: dict[str, jax.Array], step: jax.Array) -> _Period:
    scalars = {name: jnp.float32(value) for name, value in scalars.items()}
    finite = jnp.all(jnp.isfinite(jnp.stack(list(scalars.values()))))
    first = ~finite & (period.bad_step < 0)
    return _Period(
        sums={name: period.sums[name] + value for name, value in scalars.items()},
        bad_step=jnp.where(first, step, period.bad_step),
        bad_scalars={
            name: jnp.where(first, value, period.bad_scalars[name])
            for name, value in scalars.items()
        },
    )
