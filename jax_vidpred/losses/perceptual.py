"""Distance of images in the features of a frozen network."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from jax_vidpred.losses.reconstruction import l1

Images = Float[Array, "b h w 3"]


def perceptual_l1(
    features: Callable[[Images], tuple[Float[Array, "b ..."], ...]],
    prediction: Float[Array, "b h w 3"],
    target: Float[Array, "b h w 3"],
) -> Float[Array, "b"]:
    """Mean over the features of the mean absolute difference of each.

    With `features.vit.dinov2_features` (the last two blocks, normed) it is the
    perceptual loss of the frame VAE. The gradient reaches the prediction only.

    Args:
      features: function from images to features of a frozen network; it prepares the
        images as the network wants them.
      prediction: images in [0, 1] or about it.
      target: images in [0, 1].

    Raises:
      ValueError: the function gives no features.
    """
    wanted = jax.lax.stop_gradient(features(target))
    found = features(prediction)
    if not found:
        raise ValueError("the network gives no features; ask it for one layer or more")
    distances = [l1(a, b) for a, b in zip(found, wanted, strict=True)]
    return sum(distances) / len(distances)
