"""Conditional VAE: the next frame from the last one, a label of the next, and a draw.

    frame[t] = generate(fuse(encode(frame[t - 1]), encode(label[t]), z[t]))

While training, z[t] is drawn from a posterior that sees the true frame t and its label;
to predict, from a standard normal. The model looks one frame back: motion that no label
tells is left to the draw.
"""

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jax_vidpred.models.flow_warp import over_images
from jax_vidpred.models.layers.compute import compute_dtype
from jax_vidpred.models.layers.conv import Conv, ResidualBlock
from jax_vidpred.models.vae import LOGVAR_RANGE, Gaussian
from jax_vidpred.ops.activation import silu
from jax_vidpred.ops.image import depth_to_space


class Rollout(flax.struct.PyTreeNode):
    """Predicted frames and the posteriors that their draws are from.

    Entry k speaks of frame k + 1 of the clip.
    """

    frames: Float[Array, "b k h w 3"]
    mean: Float[Array, "b k gh gw c"]
    logvar: Float[Array, "b k gh gw c"]


class CVAE(nn.Module):
    """The recurrent model; all frames are in [0, 1].

    Attributes:
      preset: "blend" (default): the generator says what to paint and where, and the
        rest of the last frame stays; or "reference": it paints the whole frame, as in
        the course work that this model is known from.
      stride: pixels per cell of the grid on which all is fused, a power of two of at
        least 2.
      latent_channels: of a draw, per cell.
      features: width on the grid; a half of it at half the resolution.
      label_features: width of an encoded label.
      label_stride: pixels of a label per cell: 1 for maps on the grid, `stride` for
        images.
      num_blocks: residual blocks after the fusion; encoders have one.
      dtype: "float32", or "bfloat16" for all convolutions but the last of posterior and
        generator; parameters, posterior and frames are float32 in either case.
      remat: whether the gradient computes the inside of every step again instead of
        keeping it: less memory, more time.
    """

    preset: str = "blend"
    stride: int = 4
    latent_channels: int = 4
    features: int = 48
    label_features: int = 24
    label_stride: int = 1
    num_blocks: int = 2
    dtype: str = "float32"
    remat: bool = False

    def setup(self):
        if self.preset not in ("blend", "reference"):
            raise ValueError(
                f"CVAE preset {self.preset!r} is unknown; use blend or reference"
            )
        levels = round(math.log2(self.stride))
        if self.stride != 2**levels or levels < 1:
            raise ValueError(
                f"stride={self.stride} is not a power of two of at least 2"
            )
        dtype = compute_dtype(self.dtype)
        self.frame_encoder = _Encoder(self.features, self.stride, dtype)
        self.label_encoder = _Encoder(self.label_features, self.label_stride, dtype)
        self.gaussian_predictor = _GaussianPredictor(
            self.features, self.latent_channels, dtype
        )
        self.fusion = _Fusion(self.features, self.num_blocks, dtype)
        self.generator = _Generator(self.features, self.stride, dtype)

    def __call__(
        self,
        frames: Float[Array, "b t h w 3"],
        labels: Float[Array, "b k lh lw d"],
        use_truth: Bool[Array, "b k"],
        keys: PRNGKeyArray,
    ) -> Rollout:
        """Predicts frames 1 .. t - 1 with draws from the posteriors of the true ones.

        Args:
          frames: the true clip.
          labels: of its k = t - 1 frames after the first.
          use_truth: whether a step is fed the true frame or the one that the step
            before predicted (the first step must be fed the truth).
          keys: [b], one for each clip.

        Raises:
          ValueError: height or width is not divisible by the stride.
        """
        label = over_images(self.label_encoder, labels)
        posterior = self.posterior(frames[:, 1:], label)
        # By step of the clip: a longer clip begins as a shorter one does.
        drawn = jax.vmap(lambda k, m, v: Gaussian(m, v).sample(k))(
            _keys_of_steps(keys, label.shape[1]), posterior.mean, posterior.logvar
        )
        predicted = self._roll_out(frames[:, :-1], label, drawn, use_truth)
        return Rollout(predicted, posterior.mean, posterior.logvar)

    def generate(
        self,
        frame: Float[Array, "b h w 3"],
        labels: Float[Array, "b k lh lw d"],
        keys: PRNGKeyArray,
    ) -> Float[Array, "b k h w 3"]:
        """Continues a frame with draws from the prior, one frame for each label.

        Args:
          frame: the last one that is known.
          labels: of the frames to predict.
          keys: [b], one for each video.
        """
        label = over_images(self.label_encoder, labels)
        b, k, gh, gw, _ = label.shape
        prior = jnp.zeros((b, k, gh, gw, self.latent_channels))
        drawn = jax.vmap(lambda k, m: Gaussian(m, m).sample(k))(
            _keys_of_steps(keys, k), prior
        )
        frames = jnp.broadcast_to(frame[:, None], (b, k, *frame.shape[1:]))
        first = jnp.broadcast_to(jnp.arange(k) == 0, (b, k))
        return self._roll_out(frames, label, drawn, first)

    def posterior(
        self,
        frames: Float[Array, "*b h w 3"],
        label: Float[Array, "*b gh gw e"],
    ) -> Gaussian:
        """What a draw should have been, for a true frame and its encoded label."""
        seen = over_images(self.frame_encoder, frames)
        both = jnp.concatenate([seen, label], -1)
        return over_images(self.gaussian_predictor, both)

    def next_frame(
        self,
        frame: Float[Array, "b h w 3"],
        label: Float[Array, "b gh gw e"],
        drawn: Float[Array, "b gh gw c"],
    ) -> Float[Array, "b h w 3"]:
        """One step, with an encoded label."""
        x = self.fusion(self.frame_encoder(frame), label, drawn)
        painted, where = jnp.split(self.generator(x), [3], -1)
        painted = nn.sigmoid(painted)
        if self.preset == "reference":
            return painted
        # sigmoid(-4) = 0.02: the model starts by copying.
        return frame + nn.sigmoid(where - 4.0) * (painted - frame)

    def _roll_out(self, truth, label, drawn, use_truth):
        step = CVAE._step
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
        _, predicted = scan(self, truth[:, 0], (truth, label, drawn, use_truth))
        return predicted

    def _step(self, predicted, inputs):
        truth, label, drawn, use_truth = inputs
        frame = jnp.where(use_truth[:, None, None, None], truth, predicted)
        following = self.next_frame(frame, label, drawn)
        return following, following


def _keys_of_steps(keys: PRNGKeyArray, num_steps: int) -> PRNGKeyArray:
    """[b, k] keys of the steps of clips: the same, however many follow."""
    steps = jnp.arange(num_steps)
    return jax.vmap(
        lambda key: jax.vmap(lambda step: jax.random.fold_in(key, step))(steps)
    )(keys)


class _Encoder(nn.Module):
    """Images to features on the grid, one strided convolution for each halving."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        h, w = x.shape[1:3]
        if h % self.stride or w % self.stride:
            raise ValueError(
                f"images of {h}x{w} do not divide by the stride {self.stride} of the"
                f" CVAE; use {h - h % self.stride}x{w - w % self.stride}"
            )
        levels = round(math.log2(self.stride))
        for level in reversed(range(levels)):
            # 4x4 strided kernels overlap evenly, as in the VAE.
            width = max(self.features >> level, 16) if level else self.features
            x = Conv(width, kernel=4, stride=2, dtype=self.dtype)(x)
            x = silu(x) if level else x
        if not levels:
            x = Conv(self.features, dtype=self.dtype)(x)
        return ResidualBlock(self.features, dtype=self.dtype)(x)


class _GaussianPredictor(nn.Module):
    features: int
    out: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        x = silu(Conv(self.features, dtype=self.dtype)(silu(x)))
        mean, logvar = jnp.split(Conv(2 * self.out)(x), 2, -1)
        return Gaussian(mean, jnp.clip(logvar, *LOGVAR_RANGE))


class _Fusion(nn.Module):
    """Frame, label and draw become one; what the frame shows goes past it besides."""

    features: int
    num_blocks: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, frame, label, drawn):
        both = jnp.concatenate([silu(frame), silu(label), drawn], -1)
        x = frame + Conv(self.features, dtype=self.dtype)(both)
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.features, dtype=self.dtype)(x)
        return x


class _Generator(nn.Module):
    """Features to what is painted (3 channels) and where (1), both before the sigmoid.

    Sub-pixel convolutions, as in the VAE: none runs at full resolution.
    """

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        for level in range(1, round(math.log2(self.stride))):
            width = max(self.features >> level, 16)
            x = depth_to_space(Conv(4 * width, dtype=self.dtype)(silu(x)), 2)
        return depth_to_space(Conv(16)(silu(x)), 2)
