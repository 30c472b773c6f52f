"""Changes of videos that make a data set larger, with one draw for a whole clip."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

# Luma of red, green and blue (ITU-R BT.601), with torchvision's digits.
_LUMA = (0.2989, 0.587, 0.114)


def colour_jitter(
    video: Float[Array, "b t h w 3"],
    keys: Key[Array, "b"],
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Float[Array, "b t h w 3"]:
    """Other colours, the same ones in all frames of a clip.

    In this order, each clipped to [0, 1]: brightness multiplies; contrast moves away
    from, or to, the mean grey of each frame; saturation does so from the grey of each
    pixel; hue turns the colour circle. Each is what torchvision's `adjust_*` does; all
    are drawn evenly, the factors of the first three from 1 - strength to 1 + strength.

    Args:
      video: in [0, 1].
      keys: [b], one of each clip.
      brightness, contrast, saturation: strengths, in [0, 1].
      hue: strength, at most 0.5: half of the circle either way.
    """
    strengths = jnp.array([brightness, contrast, saturation, hue])

    def jitter(clip, key):
        drawn = strengths * jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
        clip = _blend(clip, jnp.zeros_like(clip), 1 + drawn[0])
        mean = _grey(clip).mean((1, 2, 3), keepdims=True)
        clip = _blend(clip, mean, 1 + drawn[1])
        clip = _blend(clip, _grey(clip), 1 + drawn[2])
        return _turn_hue(clip, drawn[3])

    return jax.vmap(jitter)(video, keys)


def _blend(image, other, share):
    return jnp.clip(share * image + (1 - share) * other, 0, 1)


def _grey(image):
    """[..., 1]."""
    return jnp.einsum("...c,c->...", image, jnp.array(_LUMA))[..., None]


def _turn_hue(image, turn):
    """Colours `turn` circles further: by way of HSV (Smith 1978, hexcone model)."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, low = image.max(-1), image.min(-1)
    chroma = value - low
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    sector = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(
            value == green,
            2 + (blue - red) / divisor,
            4 + (red - green) / divisor,
        ),
    )
    sector = sector + 6 * turn

    def channel(offset):
        place = jnp.mod(sector + offset, 6.0)
        return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], -1)
