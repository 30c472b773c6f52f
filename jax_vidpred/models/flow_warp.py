"""Flow-warp temporal model: a recurrent trunk whose heads move the latent forward.

    next = visible * warp(latent, flow) + residual

One step sees the latent and its change since the step before, updates a ConvLSTM, and
reads from the hidden state: backward flow (latent cells), visibility (a logit),
residual (which also sees the warped latent), collision (a logit) and object states.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_vidpred.models.layers.compute import apply, compute_dtype
from jax_vidpred.models.layers.conv import Conv, ResidualBlock
from jax_vidpred.models.layers.convlstm import ConvLSTMCell
from jax_vidpred.ops.activation import silu
from jax_vidpred.ops.warp import warp, warp_near


class Rollout(flax.struct.PyTreeNode):
    """What each step says about the next frame; entry k speaks of frame k + 1."""

    latent: Float[Array, "b k h w c"]
    warped: Float[Array, "b k h w c"]
    flow: Float[Array, "b k h w 2"]
    visible_logit: Float[Array, "b k h w 1"]
    residual: Float[Array, "b k h w c"]
    hidden: Float[Array, "b k h w d"]


class Told(flax.struct.PyTreeNode):
    """What a roll-out is told instead of predicting it; None = it predicts it."""

    flow: Float[Array, "b k h w 2"] | None = None
    visible: Float[Array, "b k h w 1"] | None = None
    residual: Float[Array, "b k h w c"] | None = None


class Objects(flax.struct.PyTreeNode):
    """Unordered slots: is an object there, and in which state."""

    present_logit: Float[Array, "b k n"]
    state: Float[Array, "b k n d"]


class FlowWarp(nn.Module):
    """The recurrent model.

    Attributes:
      latent_channels: channels of the latent.
      features: channels of trunk and hidden state.
      num_blocks: residual blocks between the latent and the ConvLSTM.
      head_features: width of the heads.
      num_slots: object slots of the state head.
      state_features: numbers per object state.
      reach: largest flow in latent cells for the gather-free warp; 0 uses the general
        warp, which has no limit.
      dtype: "float32", or "bfloat16" for all convolutions but the last of each head;
        parameters, the ConvLSTM's state, the warp and all results are float32 in either
        case.
      remat: whether the gradient computes the inside of every step, and of the heads of
        collisions and objects, again instead of keeping it: less memory, more time.
    """

    latent_channels: int
    features: int = 64
    num_blocks: int = 1
    head_features: int = 32
    num_slots: int = 6
    state_features: int = 4
    reach: int = 0
    dtype: str = "float32"
    remat: bool = False

    def setup(self):
        dtype = compute_dtype(self.dtype)
        self.embed = Conv(self.features, dtype=dtype)
        self.blocks = [
            ResidualBlock(self.features, dtype=dtype) for _ in range(self.num_blocks)
        ]
        self.cell = ConvLSTMCell(self.features, dtype=dtype)
        self.flow_head = _Head(self.head_features, 2, dtype)
        # sigmoid(4) = 0.98: the model starts by copying.
        self.visible_head = _Head(self.head_features, 1, dtype, bias=4.0)
        self.residual_head = _Head(self.features, self.latent_channels, dtype)
        self.collision_head = _CollisionHead(self.head_features, dtype)
        self.state_head = _StateHead(
            self.head_features, self.num_slots, self.state_features, dtype
        )

    def __call__(
        self,
        latents: Float[Array, "b k h w c"],
        use_truth: Bool[Array, "b k"],
    ) -> tuple[Rollout, Float[Array, "b k"], Objects]:
        """Rolls over k steps and reads every head.

        Args:
          latents: the true latent of each step's input, unit variance.
          use_truth: whether a step is fed the truth or the prediction of the step
            before (the first step must be fed the truth).

        Returns:
          the rollout, collision logits, object slots.
        """
        rollout = self.rollout(latents, use_truth)
        return (
            rollout,
            self.collision_logit(rollout.hidden),
            self.objects(rollout.hidden),
        )

    def rollout(
        self,
        latents: Float[Array, "b k h w c"],
        use_truth: Bool[Array, "b k"],
        told: Told | None = None,
    ) -> Rollout:
        """As `__call__`, without the heads that prediction does not need."""
        b, _, h, w, _ = latents.shape
        first = latents[:, 0]
        carry = (self.cell.initial(b, h, w), first, first)
        step = FlowWarp._step
        if self.remat:
            # A loop forth and a loop back: nothing that XLA could merge into one.
            step = nn.remat(step, prevent_cse=False)
        scan = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        _, rollout = scan(self, carry, (latents, use_truth, told or Told()))
        return rollout

    def _step(self, carry, inputs):
        memory, previous, predicted = carry
        truth, use_truth, told = inputs
        latent = jnp.where(use_truth[:, None, None, None], truth, predicted)
        x = self.embed(jnp.concatenate([latent, latent - previous], -1))
        for block in self.blocks:
            x = block(x)
        memory, hidden = self.cell(memory, silu(x))
        flow = self.flow(hidden) if told.flow is None else told.flow
        warped = self.warp(latent, flow)
        visible_logit = self.visible_head(hidden)
        visible = nn.sigmoid(visible_logit) if told.visible is None else told.visible
        residual = told.residual
        if residual is None:
            residual = self.residual_head(jnp.concatenate([warped, hidden], -1))
        following = visible * warped + residual
        output = Rollout(following, warped, flow, visible_logit, residual, hidden)
        return (memory, latent, following), output

    def flow(self, hidden: Float[Array, "*b h w d"]) -> Float[Array, "*b h w 2"]:
        """Backward flow in latent cells: the only thing that `flow_head` computes."""
        return over_images(self.flow_head, hidden)

    def warp(
        self, latent: Float[Array, "*b h w c"], flow: Float[Array, "*b h w 2"]
    ) -> Float[Array, "*b h w c"]:
        """Moves the latent along the flow."""
        if self.reach:
            return warp_near(latent, flow, self.reach)
        return warp(latent, flow)

    def collision_logit(self, hidden: Float[Array, "b k h w d"]) -> Float[Array, "b k"]:
        """Logit that two objects touch in this transition."""
        return over_images(self._kept_small(self.collision_head), hidden)

    def objects(self, hidden: Float[Array, "b k h w d"]) -> Objects:
        """Object slots of the frame that the step predicts."""
        return over_images(self._kept_small(self.state_head), hidden)

    def _kept_small(self, head):
        return functools.partial(apply, head, remat=self.remat)


def over_images(function: Callable, images: Float[Array, "*b h w c"]):
    """Applies a function of [b, h, w, c] under any number of leading axes."""
    batch = images.shape[:-3]
    out = function(images.reshape(-1, *images.shape[-3:]))
    return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), out)


class _Head(nn.Module):
    """Two convolutions; the last starts at zero, so a head starts at its bias."""

    features: int
    out: int
    dtype: jnp.dtype
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        x = silu(Conv(self.features, dtype=self.dtype)(x))
        return Conv(self.out, kernel_init=nn.initializers.zeros, bias=self.bias)(x)


class _CollisionHead(nn.Module):
    """The largest logit of all places: a collision happens somewhere, not on average.

    A mean of probabilities over places learns several times slower, since each place
    gets only its share of the gradient.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b"]:
        x = silu(Conv(self.features, dtype=self.dtype)(x))
        x = silu(Conv(self.features, dtype=self.dtype)(x))
        # A rare event: before training, a probability of about a tenth.
        return jnp.max(Conv(1, kernel=1, bias=-2.0)(x)[..., 0], axis=(1, 2))


class _StateHead(nn.Module):
    """Each slot looks at one place (softmax over the grid) and reads a state there."""

    features: int
    num_slots: int
    state_features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Objects:
        b, h, w, _ = x.shape
        x = silu(Conv(self.features, dtype=self.dtype)(x)).reshape(b, h * w, -1)
        # From here on float32, as the parameters of Dense are.
        attention = nn.softmax(nn.Dense(self.num_slots)(x), axis=1)
        y, x_ = jnp.meshgrid(
            jnp.linspace(-1, 1, h), jnp.linspace(-1, 1, w), indexing="ij"
        )
        place = jnp.stack([x_, y], -1).reshape(1, h * w, 2)
        seen = jnp.concatenate([x, jnp.broadcast_to(place, (b, h * w, 2))], -1)
        slots = jnp.einsum("bpn,bpd->bnd", attention, seen)
        out = nn.Dense(self.features)(slots)
        out = nn.Dense(self.state_features + 1)(silu(out))
        return Objects(present_logit=out[..., 0], state=out[..., 1:])
