"""The state of a run: everything that changes while training, in one tree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
    """What a training step takes and gives back.

    Attributes:
      step: int32 scalar, the number of steps done.
      params: the trained parameters.
      opt_state: state of the optimiser (or a tree of several).
      ema: moving average of `params`, the same tree; None when none is kept.
      extra: the system's own arrays, for example a teacher-forcing ratio.
      frozen: parameters that are used but never trained, such as a first stage. They
        reach every step as an argument (as constants XLA would copy them into each
        program), are never donated and never written to a checkpoint.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any = None
    extra: dict[str, Any] = flax.struct.field(default_factory=dict)
    frozen: Any = flax.struct.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        *,
        params: Any,
        optimizer: optax.GradientTransformation,
        ema: bool = False,
        extra: dict[str, Any] | None = None,
        frozen: Any = None,
    ) -> "TrainState":
        """A state at step 0; with `ema` the average starts at `params`."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            # A copy: the same buffer twice in a tree could not be donated.
            ema=jax.tree.map(jnp.copy, params) if ema else None,
            extra={} if extra is None else extra,
            frozen={} if frozen is None else frozen,
        )

    @property
    def prediction_params(self) -> Any:
        """The parameters to predict with: the average where one is kept."""
        return self.params if self.ema is None else self.ema
