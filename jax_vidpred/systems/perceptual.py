"""Perceptual distances that a config can name: frozen networks from weight files."""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from jax_vidpred.features import lpips, vit, vit_weights
from jax_vidpred.features.weights import find_file, load_params
from jax_vidpred.losses.perceptual import perceptual_l1

Perceptual = Callable[[Float[Array, "b h w 3"], Float[Array, "b h w 3"]], Array]

_LPIPS = "lpips_"
_DINOV2 = {one.name: one for one in vit_weights.NETWORKS if "dinov2" in one.name}
NAMES = (*_DINOV2, *(_LPIPS + net for net in ("alex", "vgg", "squeeze")))


def named_perceptual(name: str) -> Perceptual:
    """f(prediction, target) -> [b] on frames in [0, 1]; its weights stay as they are.

    The weight file is read when the function is first called: who only predicts with a
    model that was trained with it does not need it. The call raises WeightsError where
    it is absent, naming the file and where it is published.

    Args:
      name: of NAMES; a DINOv2 gives L1 in its last two blocks, LPIPS its own distance.

    Raises:
      ValueError: an unknown name.
    """
    if name not in NAMES:
        known = ", ".join(NAMES)
        raise ValueError(f"perceptual={name!r} is unknown; use one of {known}")
    return lambda prediction, target: _load(name)(prediction, target)


def chosen_perceptual(chosen: Perceptual | str, weight: float) -> Perceptual | None:
    """What a system is given as perceptual function: one, or the name of one.

    Args:
      chosen: function, name as of `named_perceptual`, or "" for none.
      weight: of the loss; none is needed where it is 0.

    Raises:
      ValueError: an unknown name, or a weight without a function.
    """
    if chosen:
        return named_perceptual(chosen) if isinstance(chosen, str) else chosen
    if weight:
        raise ValueError(
            f"losses.perceptual={weight} needs a perceptual function; name a frozen"
            " network (system.perceptual), or set the weight to 0"
        )
    return None


@functools.cache
def _load(name: str) -> Perceptual:
    # Not traced: it is first called while a training step is.
    with jax.ensure_compile_time_eval():
        if name in _DINOV2:
            params = load_params(_DINOV2[name], find_file(_DINOV2[name]))
            return functools.partial(perceptual_l1, vit.dinov2_features(params, name))
        net = name.removeprefix(_LPIPS)
        return lpips.lpips_distance(lpips.load_lpips(net), net)
