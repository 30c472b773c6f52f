"""The contract between the loop and what it trains.

A system derives from `System` (or `Predictor`) and builds its networks in its own
constructor; the loop, the evaluation pass and the commands know nothing else about it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import flax.struct
import jax
from jaxtyping import Array, Float

from jax_vidpred.train.state import TrainState

Batch = dict[str, Array]  # keys and shapes: data/schema.py
Scalars = dict[str, Float[Array, ""]]


@flax.struct.dataclass
class Prediction:
    """Predicted frames and whatever else the system knows about them.

    Attributes:
      video: [b, num_future, h, w, 3] float32 in [0, 1].
      aux: arrays by name, for example `flow`, `visible`, `collision_probability`.
    """

    video: Float[Array, "b k h w 3"]
    aux: dict[str, Array] = flax.struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A trained system that a later one builds on.

    Attributes:
      system: as its config describes it.
      params: what it predicts with: its trained parameters and those it keeps frozen.
    """

    system: "System"
    params: Mapping[str, Any]


class System(Protocol):
    """Something that can be trained.

    `init`, `train_step`, `eval_step` and `samples` are traced (they run under
    `jax.jit`): pure functions of their arguments. The video of a batch is uint8; a
    step's first line turns it into float32 in [0, 1].
    """

    required_keys: tuple[str, ...]  # of the batch; checked before compilation
    train_keys: tuple[str, ...] | None = None  # of a batch to train on, if others
    frozen: Mapping[str, Any] = {}  # parameters of earlier stages that are not trained

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        """State at step 0; of `batch` only shapes and types should matter."""
        ...

    def train_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> tuple[TrainState, Scalars]:
        """One update. The scalars are averaged over a logging period.

        One of them is called `loss`. None may be NaN or infinite: that stops the run.
        """
        ...

    def eval_step(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b"] | Float[Array, "b t"]]:
        """Metrics of each example, [b] or [b, t]; padding is masked by the caller."""
        ...

    def samples(
        self, state: TrainState, batch: Batch, rng: jax.Array
    ) -> dict[str, Float[Array, "b t h w 3"]]:
        """Videos by name that are worth looking at, about [0, 1]; may be none."""
        del state, batch, rng
        return {}

    def after_evaluation(
        self, state: TrainState, summary: dict[str, float]
    ) -> TrainState:
        """Reacts to an evaluation, on the host; may only change `state.extra`."""
        del summary
        return state


class Predictor(System, Protocol):
    """A system that continues a video.

    One with `label_keys` is steered: its `predict` takes `labels` besides, arrays of a
    batch by these keys, of the frames of the context or of the first of those that
    follow too; without labels it predicts all the same.

    Attributes:
      num_context: frames of the context as in training.
      min_context: frames that a context has at least; one alone shows no motion.
      stochastic: whether another `rng` gives another future.
      label_keys: of a batch, what can be told of past and future.
    """

    num_context: int
    min_context: int = 2
    stochastic: bool = False
    label_keys: tuple[str, ...] = ()

    def predict(
        self,
        params: Any,
        context: Float[Array, "b t h w 3"],
        num_future: int,
        rng: jax.Array,
    ) -> Prediction:
        """Continues `context` (float32 in [0, 1]) by `num_future` frames."""
        ...
