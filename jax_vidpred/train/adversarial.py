"""The `train_step` of a generator that has a discriminator against it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jax_vidpred.train.optim import DISCRIMINATOR, split_discriminator
from jax_vidpred.train.protocol import Batch, Scalars
from jax_vidpred.train.state import TrainState
from jax_vidpred.train.steps import mean_over_devices, update_step


class Generated(NamedTuple):
    """What a generator gives for a batch.

    Attributes:
      fake: its images.
      real: those that they should be; the discriminator learns from both.
      loss: the part of its loss that is not about `fake`, such as a codebook's.
      scalars: to log, and whatever else should be averaged over the batch.
    """

    fake: Float[Array, "n h w c"]
    real: Float[Array, "n h w c"]
    loss: Float[Array, ""]
    scalars: Scalars


@dataclasses.dataclass(frozen=True)
class Game:
    """A generator, a discriminator, and what each of them wants.

    The generator's loss is `reconstruct` + `Generated.loss` + `weight` * a *
    `generator_loss`, where a is `adaptive_weight` of the gradients of `reconstruct` and
    of `generator_loss` with respect to `last_kernel`: of the whole batch on however
    many devices, but, where a batch is worked on in parts, of a part.

    Attributes:
      generate: all parameters but the discriminator's, batch, key -> `Generated`.
      reconstruct: fake, real -> (loss, named scalars), means over the images.
      discriminate: the discriminator's parameters, images -> logits [n, ...].
      generator_loss: logits of fake images -> [n].
      discriminator_loss: logits of real and of fake images -> [n].
      weight: of `generator_loss`.
      start: step from which both play; before it the discriminator costs no time.
      adaptive_weight: two gradients -> scalar; None for a = 1.
      last_kernel: names that lead from the parameters to the kernel of the generator's
        last layer; needed for `adaptive_weight`.
    """

    generate: Callable[[Any, Batch, jax.Array], Generated]
    reconstruct: Callable[[Array, Array], tuple[Float[Array, ""], Scalars]]
    discriminate: Callable[[Any, Array], Float[Array, "n ..."]]
    generator_loss: Callable[[Array], Float[Array, "n"]]
    discriminator_loss: Callable[[Array, Array], Float[Array, "n"]]
    weight: float
    start: int = 0
    adaptive_weight: Callable[[Array, Array], Float[Array, ""]] | None = None
    last_kernel: Sequence[str] = ()


def adversarial_step(
    game: Game,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> tuple[TrainState, Scalars]:
    """One update of generator and discriminator, both at once.

    Both see the same fake images, so the generator runs once. (VQGAN's code runs it
    again after its update and shows those images to the discriminator.)

    Args:
      game: what they play.
      optimizer: `optim.pair_optimizers(..., start=game.start)`.
      state: its parameters have the discriminator's as DISCRIMINATOR.
      batch, rng, accumulate, ema_decay: as of `gradient_step`. The average is over
        both.

    Returns:
      The state after the update, and the scalars of `gradient_step`, `generate` and
      `reconstruct` with `loss` (the generator's), `reconstruction_loss`,
      `generator_adversarial`, `discriminator_loss`, `adversarial_weight` (weight * a),
      `logits_real` and `logits_fake` (means); the last five are 0 before the start.

    Raises:
      ValueError: as `gradient_step`, or `last_kernel` leads to no array.
    """

    def gradient(params, batch, rng):
        return _gradient(game, params, batch, rng, state.step)

    return update_step(
        gradient,
        optimizer,
        state,
        batch,
        rng,
        accumulate=accumulate,
        ema_decay=ema_decay,
    )


class _Turn(NamedTuple):
    """What the discriminator adds to a step."""

    loss: Float[Array, ""]  # of the generator
    image_gradient: Float[Array, "n h w c"]  # of that loss
    discriminator_gradient: Any
    scalars: Scalars


def _gradient(game, params, batch, rng, step):
    """((generator's loss, scalars), gradients of generator and discriminator).

    Not by one differentiation of a sum of losses: the adaptive weight is known only
    when both losses have been followed back to the images. From there each goes on to
    the last kernel alone, and their weighted sum through the whole generator, once.
    """
    generator, discriminator = split_discriminator(params)

    def generate(generator):
        made = game.generate(generator, batch, rng)
        return (made.fake, made.loss), (made.real, made.scalars)

    (fake, other), pull, (real, scalars) = jax.vjp(generate, generator, has_aux=True)
    (reconstruction, terms), image_gradient = jax.value_and_grad(
        game.reconstruct, has_aux=True
    )(fake, real)

    def factor(adversarial_gradient):
        if game.adaptive_weight is None:
            return jnp.float32(game.weight)
        kernels = [
            # Compilers leave out what this computes besides the kernel's gradient.
            _at(pull((gradient, jnp.zeros_like(other)))[0], game.last_kernel)
            for gradient in (image_gradient, adversarial_gradient)
        ]
        return game.weight * game.adaptive_weight(*mean_over_devices(kernels))

    def play():
        return _turn(game, discriminator, fake, real, factor)

    def wait():
        return jax.tree.map(jnp.zeros_like, jax.eval_shape(play))

    turn = jax.lax.cond(step >= game.start, play, wait)
    total = image_gradient + turn.image_gradient
    (gradients,) = pull((total, jnp.ones_like(other)))
    loss = reconstruction + other + turn.loss
    scalars = scalars | terms | turn.scalars | {"reconstruction_loss": reconstruction}
    return (loss, scalars), gradients | {DISCRIMINATOR: turn.discriminator_gradient}


def _turn(game, discriminator, fake, real, factor):
    logits, pull = jax.vjp(game.discriminate, discriminator, fake)
    logits_real, pull_real = jax.vjp(
        lambda params: game.discriminate(params, real), discriminator
    )
    adversarial, slope = jax.value_and_grad(
        lambda logits: game.generator_loss(logits).mean()
    )(logits)
    _, image_gradient = pull(slope)
    weight = factor(image_gradient)
    loss, slopes = jax.value_and_grad(
        lambda real, fake: game.discriminator_loss(real, fake).mean(), (0, 1)
    )(logits_real, logits)
    gradients = pull_real(slopes[0])[0], pull(slopes[1])[0]
    return _Turn(
        loss=weight * adversarial,
        image_gradient=weight * image_gradient,
        discriminator_gradient=jax.tree.map(jnp.add, *gradients),
        scalars={
            "generator_adversarial": adversarial,
            "discriminator_loss": loss,
            "adversarial_weight": weight,
            "logits_real": logits_real.mean(),
            "logits_fake": logits.mean(),
        },
    )


def _at(tree: Any, path: Sequence[str]) -> Array:
    for depth, name in enumerate(path):
        if not isinstance(tree, dict) or name not in tree:
            there = sorted(tree) if isinstance(tree, dict) else "an array"
            raise ValueError(
                f"last_kernel={tuple(path)}: no {name!r} after {tuple(path[:depth])},"
                f" where there is {there}"
            )
        tree = tree[name]
    if isinstance(tree, dict):
        raise ValueError(
            f"last_kernel={tuple(path)} leads to {sorted(tree)}; name one array"
        )
    return tree
