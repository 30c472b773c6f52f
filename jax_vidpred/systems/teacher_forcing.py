"""Teacher forcing: how often a roll-out is fed the truth instead of its own prediction.

Either the training step decides (`ops.schedules.teacher_forcing_ratio`) or the
validation PSNR does ("adaptive"); what the latter has to remember lies in the state's
`extra`, and so in every checkpoint.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_vidpred.ops import schedules
from jax_vidpred.train import rngs
from jax_vidpred.train.state import TrainState

_RATIO, _HELD = "teacher_forcing_ratio", "evaluations_held"


class TeacherForcing:
    """The share of steps that see the truth, over a training run.

    Args:
      kind: "adaptive", or a kind of `ops.schedules.teacher_forcing_ratio`.
      options: the other arguments of that, or of "adaptive" those of `_Adaptive`.

    Raises:
      TypeError: options that the kind does not know.
      ValueError: an unknown kind, or a bad value.
    """

    def __init__(self, *, kind: str, **options: Any):
        self.schedule = {"kind": kind, **options}
        self.adaptive = _Adaptive(**options) if kind == "adaptive" else None
        if not self.adaptive:
            schedules.teacher_forcing_ratio(jnp.int32(0), **self.schedule)

    def initial(self) -> dict[str, Array]:
        """What belongs into a new state's `extra`."""
        return self.adaptive.initial() if self.adaptive else {}

    def ratio(self, state: TrainState) -> Float[Array, ""]:
        """Probability that a step is fed the truth."""
        if self.adaptive:
            return state.extra[_RATIO]
        return schedules.teacher_forcing_ratio(state.step, **self.schedule)

    def after_evaluation(
        self, state: TrainState, summary: dict[str, float]
    ) -> TrainState:
        """Reacts to `summary["psnr"]`, as `System.after_evaluation`."""
        if not self.adaptive:
            return state
        reaction = self.adaptive.react(state.extra, summary["psnr"])
        return state.replace(extra={**state.extra, **reaction})


class _Adaptive:
    """Less truth while the validation PSNR improves, more where it falls.

    Args:
      start: the ratio until the first reaction.
      change: what a reaction takes away or adds, within [0, 1].
      hold: evaluations at the start that are only remembered.
      compare: with the "best" PSNR so far, or with that of the "previous" evaluation.
    """

    def __init__(
        self,
        *,
        start: float = 0.5,
        change: float = 0.1,
        hold: int = 0,
        compare: str = "best",
    ):
        if compare not in ("best", "previous"):
            raise ValueError(
                f"teacher_forcing.compare={compare!r} is unknown; use best or previous"
            )
        self.start, self.change, self.hold = start, change, hold
        self.compare, self.reference = compare, f"{compare}_psnr"

    def initial(self) -> dict[str, Array]:
        extra = {
            _RATIO: jnp.float32(self.start),
            self.reference: jnp.float32(-jnp.inf),
        }
        return extra | ({_HELD: jnp.int32(0)} if self.hold else {})

    def react(self, extra: dict[str, Array], psnr: float) -> dict[str, Array]:
        reference = float(extra[self.reference])
        kept = max(psnr, reference) if self.compare == "best" else psnr
        reaction = {self.reference: jnp.float32(kept)}
        if self.hold and int(extra[_HELD]) < self.hold:
            return reaction | {_HELD: extra[_HELD] + 1}
        ratio = schedules.adaptive_ratio(
            float(extra[_RATIO]), psnr > reference, change=self.change
        )
        return reaction | {_RATIO: jnp.float32(ratio)}


def draw_coins(
    rng: jax.Array, rows: Int[Array, "b"], num_steps: int, ratio: Float[Array, ""]
) -> Bool[Array, "b k"]:
    """A coin for each of `num_steps` steps of each example, True with chance `ratio`.

    Args:
      rng: key; an example draws by its own, see `rngs.for_rows`.
      rows: number of each example in the whole batch.
      num_steps: steps of the roll-out.
      ratio: traced, so one compilation serves all ratios.
    """
    keys = rngs.for_rows(rng, rows)
    return jax.vmap(lambda key: jax.random.uniform(key, num_steps))(keys) < ratio
