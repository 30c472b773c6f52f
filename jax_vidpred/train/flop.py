"""How much arithmetic a call does, by reading its program."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


def count_flop(function: Callable, *args: Any) -> float:
    """Floating-point operations of a call; see `flop_of_program`."""
    return flop_of_program(jax.make_jaxpr(function)(*args))


def flop_of_program(program: ClosedJaxpr) -> float:
    """Floating-point operations of all convolutions and matrix products of a program.

    A product and its sum are two operations; those with the zeros of a border or
    between the pixels of a transposed convolution are no work. Elementwise arithmetic
    is not counted. What rematerialisation computes again is.

    XLA's own count, `compiled.cost_analysis()["flops"]`, is not used: it takes the body
    of a loop once however often it runs (jax 0.10.2: the same number for a scan of 2
    and of 100 turns), which would show a recurrent model as almost free, and it is that
    of one device. This one multiplies by the length and counts the work of all devices.
    Without loops the two agree but for the elementwise part.

    Args:
      program: of a compiled function, as `jax.jit(f).trace(*args).jaxpr`. A `while`
        whose number of turns only the data tell counts as one turn.
    """
    jaxpr = program.jaxpr
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
            elif name == "shard_map":  # what each device does
                total += sum(bodies) * params["mesh"].size
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
