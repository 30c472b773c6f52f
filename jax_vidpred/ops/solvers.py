"""Explicit Runge-Kutta solvers of ordinary differential equations, one loop for all."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Velocity = Callable[[Array, Array, Array], Array]


class Tableau(NamedTuple):
    """A Butcher tableau: stage i looks at time + nodes[i] * step."""

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]  # weights of the stages before, for each
    weights: tuple[float, ...]  # of all stages in the step


# Hairer, Norsett and Wanner 1993, section II.1: tables 1.1 and 1.2.
METHODS = {
    "euler": Tableau((0.0,), ((),), (1.0,)),
    "heun": Tableau((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2)),
    "rk4": Tableau(
        (0.0, 1 / 2, 1 / 2, 1.0),
        ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
    # Kutta's 3/8 rule, what torchdiffeq calls rk4.
    "rk4_38": Tableau(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}


def tableau(method: str) -> Tableau:
    """The method of that name.

    Raises:
      ValueError: an unknown name.
    """
    if method not in METHODS:
        raise ValueError(f"solver {method!r} is unknown; use one of {list(METHODS)}")
    return METHODS[method]


def integrate(
    velocity: Velocity,
    start: Float[Array, "..."],
    times: Float[Array, "n"],
    *,
    method: str,
) -> Float[Array, "..."]:
    """The solution of y' = velocity(y, t, number) at times[-1], y(times[0]) = start.

    Args:
      velocity: (y, t, number) -> y'; the number of the evaluation, counted from 0, is
        for a velocity that draws something each time.
      start: y at the first time.
      times: ends of the n - 1 steps, rising or falling.
      method: "euler", "heun", "rk4" (classical) or "rk4_38".

    Raises:
      ValueError: an unknown method.
    """
    nodes, stages, weights = tableau(method)
    numbers = jnp.arange((len(times) - 1) * len(nodes)).reshape(-1, len(nodes))

    def step(y, interval):
        begin, end, numbers = interval
        size = end - begin
        slopes = []
        for stage, (node, before) in enumerate(zip(nodes, stages, strict=True)):
            at = y + size * _combined(before, slopes) if any(before) else y
            slopes.append(velocity(at, begin + node * size, numbers[stage]))
        return y + size * _combined(weights, slopes), None

    return jax.lax.scan(step, start, (times[:-1], times[1:], numbers))[0]


def _combined(weights, slopes):
    return sum(
        weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight
    )


def even_times(begin: float, end: float, num_steps: int) -> Float[Array, "n"]:
    """The ends of `num_steps` steps of one size.

    Raises:
      ValueError: no step, or nothing to integrate over.
    """
    if num_steps < 1 or begin == end:
        raise ValueError(
            f"{num_steps} steps from {begin} to {end}; wanted at least one step"
        )
    return jnp.linspace(begin, end, num_steps + 1)
