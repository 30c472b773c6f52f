"""How long a call takes, and how much arithmetic it does."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


def measure(
    call: Callable[[], Any],
    *,
    repeats: int,
    examples: int,
    unit: str,
    flop: float = 0.0,
) -> dict[str, Any]:
    """Times a call; one more goes before, unmeasured, that fills caches.

    Args:
      call: does the work; the arrays that it returns are waited for.
      repeats: calls that are measured.
      examples: how many examples one call deals with.
      unit: what they are, for example "clips".
      flop: floating-point operations of one call; 0 where they are not known.

    Returns:
      Milliseconds of a call, by the clock (`wall_ms`) and as CPU time of all threads of
      this process (`cpu_ms`); `examples_per_second`, `gflop_per_second` by the median
      of the clock, None where there is nothing to say.
    """
    jax.block_until_ready(call())
    wall, cpu = [], []
    for _ in range(repeats):
        began, began_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    median = float(np.median(wall))
    return {
        "examples": examples,
        "unit": unit,
        "repeats": repeats,
        "wall_ms": _summary(wall),
        "cpu_ms": _summary(cpu),
        "examples_per_second": examples / median,
        "gflop": flop / 1e9 if flop else None,
        "gflop_per_second": flop / 1e9 / median if flop else None,
    }


def _summary(seconds: list[float]) -> dict[str, float]:
    points = np.percentile(np.array(seconds) * 1e3, [0, 25, 50, 75, 100])
    names = ("min", "quartile_1", "median", "quartile_3", "max")
    return dict(zip(names, points.tolist(), strict=True))


def count_flop(function: Callable, *args: Any) -> float:
    """Floating-point operations of all convolutions and matrix products of a call.

    A product and its sum are two operations; those with the zeros of a border or
    between the pixels of a transposed convolution are no work. XLA's own count
    (`compiled.cost_analysis()`) takes the body of a loop once, however often it runs,
    and would show a recurrent model as almost free; this one multiplies by the length.
    Elementwise arithmetic is not counted.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    # What nobody reads is not computed: compilers leave it out, so the count does.
    return _flop_of(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])


def _flop_of(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2.0 * inner * equation.outvars[0].aval.size
        else:
            bodies = [_flop_of(body) for body in _bodies(params)]
            if name == "cond":  # one of the branches runs
                total += max(bodies)
            elif bodies:
                total += sum(bodies) * params.get("length", 1)
    return total


def _bodies(params: dict[str, Any]) -> list[Jaxpr]:
    """The programs inside an equation: of a loop, a branch, a compiled function."""
    found = []
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else [value]:
            if isinstance(one, ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, Jaxpr):
                found.append(one)
    return found


def _convolution(equation: Any) -> float:
    params = equation.params
    numbers = params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    # Per output element: one product for each input feature of its group and each tap
    # that meets a pixel.
    total = 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
    total *= kernel[numbers.rhs_spec[1]]
    axes = zip(
        numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True
    )
    for k, (at, tap, to) in enumerate(axes):
        total *= _meetings(
            image[at],
            kernel[tap],
            out[to],
            stride=params["window_strides"][k],
            before=params["padding"][k][0],
            spread=params["lhs_dilation"][k],
            apart=params["rhs_dilation"][k],
        )
    return total


def _meetings(pixels, taps, outputs, *, stride, before, spread, apart) -> int:
    """Pairs (output, tap) along one axis whose input is a pixel, not a zero."""
    place = np.add.outer(np.arange(outputs) * stride, np.arange(taps) * apart) - before
    inside = (place >= 0) & (place <= (pixels - 1) * spread) & (place % spread == 0)
    return int(inside.sum())
