"""How long a call takes."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# A call that takes long is measured less often, so that a benchmark ends.
MAX_SECONDS = 6.0  # after these no further call, if there were
MIN_REPEATS = 5


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
      repeats: calls that are measured; fewer, but MIN_REPEATS, where all together take
        longer than MAX_SECONDS.
      examples: how many examples one call deals with.
      unit: what they are, for example "clips".
      flop: floating-point operations of one call; 0 where they are not known.

    Returns:
      `repeats`, how many were measured; milliseconds of a call, by the clock
      (`wall_ms`) and as CPU time of all threads of this process (`cpu_ms`);
      `examples_per_second`, `gflop_per_second` by the median of the clock, None where
      there is nothing to say.
    """
    jax.block_until_ready(call())
    wall, cpu = [], []
    for done in range(repeats):
        if done >= MIN_REPEATS and sum(wall) > MAX_SECONDS:
            break
        began, began_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    median = float(np.median(wall))
    return {
        "examples": examples,
        "unit": unit,
        "repeats": len(wall),
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
