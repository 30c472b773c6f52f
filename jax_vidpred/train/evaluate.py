"""The evaluation pass: means of per-example metrics over a whole split."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from jax_vidpred.clu_compat import metrics
from jax_vidpred.data.schema import MASK
from jax_vidpred.train.mesh import Layout, make_layout
from jax_vidpred.train.protocol import Batch, System
from jax_vidpred.train.rngs import fold_in
from jax_vidpred.train.state import TrainState

NONFINITE = (
    "/nonfinite"  # suffix: number of values of a metric that are NaN or infinite
)


@flax.struct.dataclass
class _Totals:
    """Running mean of a metric and the number of its values that are not finite."""

    average: metrics.Average
    nonfinite: jax.Array

    @classmethod
    def of(cls, values: jax.Array, mask: jax.Array) -> "_Totals":
        mask = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
        mask = jnp.broadcast_to(mask, values.shape)
        return cls(
            average=metrics.Average.from_model_output(
                values=values.astype(jnp.float32), mask=mask
            ),
            nonfinite=jnp.sum(mask & ~jnp.isfinite(values)),
        )

    def merge(self, other: "_Totals") -> "_Totals":
        return _Totals(
            self.average.merge(other.average), self.nonfinite + other.nonfinite
        )


def evaluate(
    system: System,
    state: TrainState,
    batches: Iterable[dict[str, np.ndarray]],
    rng: jax.Array,
    *,
    layout: Layout | None = None,
) -> dict[str, float]:
    """Mean of every metric of `system.eval_step` over the examples of `batches`.

    Compiled once for each system and shape: pad the last batch and mark the padding
    with False in `mask`. Metrics over time, [b, t], are averaged over time too.

    Args:
      system: whose `eval_step` gives arrays [b] or [b, t].
      state: to evaluate.
      batches: dicts of NumPy arrays.
      rng: folded with the number of the batch.
      layout: where the state lives; whole on all devices when None.

    Returns:
      Means by name. Where values were not finite, the mean is not either, and
      `<name>/nonfinite` says how many.

    Raises:
      ValueError: no example at all, a missing key, or a metric of another shape.
    """
    layout = make_layout() if layout is None else layout
    step = _compiled(system.eval_step, layout)
    totals: dict[str, _Totals] | None = None
    for index, batch in enumerate(batches):
        check_keys(system, batch)
        update = step(state, layout.put_batch(batch), fold_in(rng, index))
        # Merging waits for nothing; only the last line of all fetches.
        totals = update if totals is None else _merge(totals, update)
        # A bound on the work in flight: each holds a batch, and on a CPU with several
        # devices more than about 32 unfinished programs wait for each other for ever.
        if index % 8 == 7:
            jax.block_until_ready(totals)
    if totals is None:
        raise ValueError("no batch to evaluate; is the split smaller than one batch?")
    summary: dict[str, float] = {}
    for name, total in jax.device_get(totals).items():
        if total.average.count == 0:
            raise ValueError("no example to evaluate: every one is masked as padding")
        summary[name] = float(total.average.compute())
        if total.nonfinite:
            summary[name + NONFINITE] = float(total.nonfinite)
            logging.warning(
                "%s is NaN or infinite in %d of %d values",
                *(name, total.nonfinite, total.average.count),
            )
    return summary


def check_keys(
    system: System, batch: dict[str, Any], keys: Sequence[str] | None = None
) -> None:
    """Complains about a key that the system needs and the batch lacks.

    Args:
      keys: `required_keys` of the system when None.

    Raises:
      ValueError: naming the keys.
    """
    missing = [key for key in keys or system.required_keys if key not in batch]
    if missing:
        raise ValueError(
            f"{type(system).__name__} needs {missing} in a batch, which has"
            f" {sorted(batch)}; let the data pipeline provide them"
        )


# Keyed by the bound method: it is equal to itself as long as the system is the same.
@functools.lru_cache(maxsize=8)
def _compiled(
    eval_step: Callable[..., dict[str, jax.Array]], layout: Layout
) -> Callable[..., Any]:
    def step(state: TrainState, batch: Batch, rng: jax.Array) -> dict[str, _Totals]:
        values = eval_step(layout.whole(state), batch, rng)
        size = next(iter(batch.values())).shape[0]
        mask = batch[MASK].astype(bool) if MASK in batch else jnp.ones(size, bool)
        for name, value in values.items():
            if value.ndim not in (1, 2) or value.shape[0] != size:
                raise ValueError(
                    f"metric {name!r} has shape {value.shape}, wanted [b] or [b, t]"
                    f" with b={size}: one value per example"
                )
        return {name: _Totals.of(value, mask) for name, value in values.items()}

    return jax.jit(step, out_shardings=layout.replicated)


@jax.jit
def _merge(
    totals: dict[str, _Totals], update: dict[str, _Totals]
) -> dict[str, _Totals]:
    return {name: total.merge(update[name]) for name, total in totals.items()}
