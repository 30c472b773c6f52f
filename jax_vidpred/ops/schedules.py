"""Numbers that change with the training step: teacher forcing and KL weight.

All functions take a traced step and return a float32 scalar, so one compilation serves
the whole run.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def teacher_forcing_ratio(
    step: Int[Array, ""], *, kind: str, num_steps: int, final: float = 0.0
) -> Float[Array, ""]:
    """Probability that a step is fed the true latent instead of its own prediction.

    Scheduled sampling (Bengio et al. 2015, section 2.4).

    Args:
      step: training step.
      kind: "always" (1), "linear" (from 1 to `final` over `num_steps`), "exponential"
        (k**step, where k < 1 is such that `num_steps` lead to `final`, or to
        1 % where that is less) or "inverse_sigmoid" (k / (k + exp(step / k)), halfway
        at `num_steps` / 2).
      num_steps: length of the decay.
      final: the ratio that is never undercut.

    Raises:
      ValueError: an unknown kind.
    """
    progress = jnp.asarray(step, jnp.float32) / num_steps
    if kind == "always":
        return jnp.ones(())
    if kind == "linear":
        return jnp.maximum(final, 1 - (1 - final) * progress)
    if kind == "exponential":
        return jnp.maximum(final, max(final, 0.01) ** progress)
    if kind == "inverse_sigmoid":
        # k / (k + exp(i / k)) with i / k = 10 * progress and the middle at one half.
        ratio = 1 / (1 + jnp.exp(10 * (progress - 0.5)))
        return jnp.maximum(final, ratio)
    raise ValueError(
        f"teacher forcing {kind!r} is unknown; use always, linear, exponential,"
        " inverse_sigmoid or adaptive (a system that adapts keeps the ratio in its"
        " state)"
    )


def adaptive_ratio(ratio: float, improved: bool, *, change: float = 0.1) -> float:
    """Teacher-forcing ratio after an evaluation: lower on progress, else higher."""
    return min(1.0, max(0.0, ratio - change if improved else ratio + change))


def kl_weight(
    step: Int[Array, ""],
    *,
    kind: str,
    num_steps: int,
    num_cycles: int = 4,
    ratio: float = 0.5,
) -> Float[Array, ""]:
    """Factor in [0, 1] on the KL term (Fu et al. 2019, cyclical annealing, eq. 6).

    Args:
      step: training step.
      kind: "none" (1), "monotonic" (one rise over `ratio * num_steps`) or "cyclical"
        (`num_cycles` rises, each over `ratio` of its period, then held at 1).
      num_steps: length of the whole schedule.
      num_cycles: periods of the cyclical kind.
      ratio: share of a period that rises.

    Raises:
      ValueError: an unknown kind.
    """
    step = jnp.asarray(step, jnp.float32)
    if kind == "none":
        return jnp.ones(())
    if kind == "monotonic":
        return jnp.minimum(1.0, step / (ratio * num_steps))
    if kind == "cyclical":
        period = num_steps / num_cycles
        return jnp.minimum(1.0, jnp.mod(step, period) / (ratio * period))
    raise ValueError(
        f"KL annealing {kind!r} is unknown; use none, monotonic or cyclical"
    )
