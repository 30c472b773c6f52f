"""The PyTorch reference's temporal model, as its checkpoints want it.

    next = mask * warp(latent, flow) + (1 - mask) * residual(warp(latent, flow))

Another network than `flow_warp`: the residual replaces content instead of adding to it,
and sees nothing but the warped latent; the flow reaches one cell at most; heads end in
rectifiers, not SiLU. Weights that were trained so work only so.
"""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.models.flow_warp import over_images
from jax_vidpred.models.layers.conv import Conv
from jax_vidpred.models.layers.convlstm import Carry, ConvLSTMCell
from jax_vidpred.ops.warp import warp_near

MAX_DISPLACEMENT = 1  # latent cells that the flow reaches
OBJECT_VALUES = 6  # numbers per object of the state head


class Step(flax.struct.PyTreeNode):
    """What one step says about the next frame; `*b` is [b], or [b, k] for k steps."""

    latent: Float[Array, "*b h w c"]
    warped: Float[Array, "*b h w c"]
    flow: Float[Array, "*b h w 2"]
    mask: Float[Array, "*b h w 1"]
    residual: Float[Array, "*b h w c"]
    hidden: Float[Array, "*b h w d"]


class ReferenceTemporal(nn.Module):
    """The recurrent model; 402,152 parameters with the values below.

    Attributes:
      latent_channels: channels of the latent.
      features: channels of the ConvLSTM.
      head_features: width of the flow and the occlusion head.
      collision_features: width of the collision head.
      max_objects: objects of the state head.
    """

    latent_channels: int = 32
    features: int = 64
    head_features: int = 32
    collision_features: int = 64
    max_objects: int = 6

    def setup(self):
        self.input_projection = Conv(self.features, kernel=1)
        self.cell = ConvLSTMCell(self.features, forget_bias=0.0)
        self.flow_head = _Head(self.head_features, 2)
        self.occlusion_head = _Head(self.head_features, 1)
        self.residual_head = _Head(2 * self.latent_channels, self.latent_channels)
        self.state_head = _GlobalHead(256, self.max_objects * OBJECT_VALUES)
        self.collision_head = _GlobalHead(self.collision_features, 1)

    def __call__(
        self, latents: Float[Array, "b k h w c"]
    ) -> tuple[Step, Float[Array, "b k n d"], Float[Array, "b k"]]:
        """Sees k true latents one after the other and reads every head.

        Returns:
          the steps, the objects' states, and a logit for each step that two objects
          collide in the frame that it sees.
        """
        b, _, h, w, _ = latents.shape
        scan = nn.scan(
            ReferenceTemporal.step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        _, steps = scan(self, self.initial(b, h, w), latents)
        states = over_images(self.state_head, steps.hidden)
        states = states.reshape(*states.shape[:2], self.max_objects, OBJECT_VALUES)
        return steps, states, over_images(self.collision_head, steps.hidden)[..., 0]

    def initial(self, batch: int, height: int, width: int) -> Carry:
        """Zero memory."""
        return self.cell.initial(batch, height, width)

    def step(
        self, memory: Carry, latent: Float[Array, "b h w c"]
    ) -> tuple[Carry, Step]:
        """Sees one latent and says the next."""
        memory, hidden = self.cell(memory, self.input_projection(latent))
        flow = self.flow(hidden)
        warped = self.warp(latent, flow)
        mask = nn.sigmoid(self.occlusion_head(hidden))
        residual = self.residual_head(warped)
        following = warped * mask + residual * (1 - mask)
        return memory, Step(following, warped, flow, mask, residual, hidden)

    def flow(self, hidden: Float[Array, "*b h w d"]) -> Float[Array, "*b h w 2"]:
        """Where to sample, in latent cells: the only thing that `flow_head` computes.

        It is used as backward flow, whatever it was trained on.
        """
        return MAX_DISPLACEMENT * jnp.tanh(over_images(self.flow_head, hidden))

    def warp(
        self, latent: Float[Array, "*b h w c"], flow: Float[Array, "*b h w 2"]
    ) -> Float[Array, "*b h w c"]:
        """Moves the latent along the flow; beyond the border the border repeats."""
        return warp_near(latent, flow, MAX_DISPLACEMENT)


class _Head(nn.Module):
    features: int
    out: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        x = nn.relu(Conv(self.features)(x))
        return Conv(self.out)(x)


class _GlobalHead(nn.Module):
    """Reads the mean over all places."""

    features: int
    out: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        x = nn.relu(nn.Dense(self.features)(x.mean((1, 2))))
        return nn.Dense(self.out)(x)
