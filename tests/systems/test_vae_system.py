"""Phase 1: objective, running statistics of the latents, scaling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.models.vae import Gaussian
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems.latent_scale import STATISTICS_DECAY
from jax_vidpred.systems.vae import VAELoss


@pytest.fixture(scope="module")
def trained_twice(vae_stage):
    """The system, its state after 0, 1 and 2 steps, the batches, and the scalars."""
    system = vae_stage.system
    batch = {schema.VIDEO: _clips(0)}, {schema.VIDEO: _clips(1)}
    state = jax.eval_shape(system.init, jax.random.key(0), batch[0])
    state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), state)
    states, scalars = [state.replace(params=vae_stage.params)], []
    step = jax.jit(system.train_step)
    for k in (0, 1):
        after, values = step(states[-1], batch[k], jax.random.key(k))
        states.append(after)
        scalars.append(values)
    return system, states, batch, scalars


def _clips(seed):
    values = np.random.default_rng(seed).integers(0, 256, (2, 2, 16, 16, 3))
    return jnp.asarray(values, jnp.uint8)


def test_statistics_are_those_of_the_first_batch_then_follow_slowly(trained_twice):
    system, states, batches, _ = trained_twice
    first, second = states[1].params, states[2].params
    scaled = system.encode(
        states[0].params | {k: first[k] for k in ("latent_mean", "latent_variance")},
        to_float(batches[0][schema.VIDEO]),
    )
    np.testing.assert_allclose(scaled.mean((0, 1, 2, 3)), [0, 0], atol=1e-4)
    np.testing.assert_allclose(scaled.std((0, 1, 2, 3)), [1, 1], rtol=1e-3)
    # Undo the average: what remains are the moments of the second batch.
    scaled = system.encode(first, to_float(batches[1][schema.VIDEO]))
    deviation = np.sqrt(first["latent_variance"])
    change = (second["latent_mean"] - first["latent_mean"]) / (1 - STATISTICS_DECAY)
    np.testing.assert_allclose(
        change / deviation, scaled.mean((0, 1, 2, 3)), rtol=0.01, atol=2e-3
    )


def test_step_moves_the_net_and_reports_the_objective(trained_twice):
    _, states, _, scalars = trained_twice
    moved = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), states[0].params, states[1].params
    )
    assert all(jax.tree.leaves(moved))
    for values in scalars:
        expected = values["l1"] + 0.1 * values["kl"]
        np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)
        assert values["kl_factor"] == 1
    assert int(states[2].step) == 2


def test_scaling_is_undone_before_decoding(vae_stage):
    system, params = vae_stage.system, vae_stage.params
    images = jax.random.uniform(jax.random.key(0), (2, 3, 16, 16, 3))
    encode, decode = jax.jit(system.encode), jax.jit(system.decode)
    latents = encode(params, images)
    assert latents.shape == (2, 3, 4, 4, 2)
    again = decode(params, latents)
    plain = system.vae.apply({"params": params["net"]}, images.reshape(-1, 16, 16, 3))
    np.testing.assert_allclose(again.reshape(plain.shape), plain, atol=1e-4)


def test_first_step_does_not_average_with_the_start(trained_twice, vae_stage):
    _, states, _, _ = trained_twice
    start = vae_stage.params["latent_variance"]
    assert np.all(np.abs(states[1].params["latent_variance"] - start) > 0.01)


def test_evaluation_gives_one_number_per_example(vae_stage):
    system = vae_stage.system
    batch = {schema.VIDEO: _clips(3)}
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    out = jax.eval_shape(system.eval_step, state, batch, jax.random.key(0))
    assert {name: value.shape for name, value in out.items()} == dict.fromkeys(
        ("psnr", "ssim", "latent_deviation"), (2,)
    )


class Copy:
    """Stands in for a VAE: its posterior is the image, with standard deviation 1."""

    def apply(self, variables, x, method):
        del variables
        return x if method == "decode" else Gaussian(x, 0 * x)


NONE = {"kind": "none", "num_steps": 1}
VIDEO = jnp.full((1, 3, 4, 4, 3), 0.3)
FRAMES = VIDEO[0]


def loss_of_copy(step=0, **options):
    loss = VAELoss(Copy(), **options)
    return loss({}, VIDEO, jnp.arange(1), jax.random.key(0), jnp.int32(step))


def test_noise_enters_the_reconstruction():
    total, terms, latent = loss_of_copy(l1=2.0, kl=0.0, annealing=NONE)
    # E|eps| = sqrt(2 / pi) for a standard normal; 144 draws.
    assert float(terms["l1"]) == pytest.approx(0.8, abs=0.15)
    assert float(total) == pytest.approx(2 * float(terms["l1"]))
    np.testing.assert_array_equal(latent, FRAMES)


def test_a_clip_draws_the_same_noise_in_any_part_of_a_batch():
    loss = VAELoss(Copy(), l1=1.0, kl=0.0, annealing=NONE)
    videos, key = jnp.zeros((4, 3, 4, 4, 3)), jax.random.key(0)

    def drawn(part):
        _, terms, _ = loss({}, videos[part], jnp.arange(4)[part], key, jnp.int32(0))
        return float(terms["l1"])

    parts = [drawn(slice(k, k + 1)) for k in range(4)]
    assert len(set(parts)) == 4
    assert drawn(slice(None)) == pytest.approx(np.mean(parts), rel=1e-6)


def test_perceptual_term_is_a_function_that_is_called_only_with_weight():
    seen = []

    def distance(prediction, target):
        seen.append((prediction.shape, target.shape))
        return jnp.full(len(prediction), 2.0)

    options = {"l1": 1.0, "kl": 0.0, "annealing": NONE, "function": distance}
    _, terms, _ = loss_of_copy(**options)
    assert "perceptual" not in terms and not seen
    total, terms, _ = loss_of_copy(**options, perceptual=0.5)
    assert float(total) == pytest.approx(float(terms["l1"]) + 0.5 * 2.0)
    assert seen == [(FRAMES.shape, FRAMES.shape)]
    with pytest.raises(ValueError, match="perceptual=0.5 needs a perceptual function"):
        VAELoss(Copy(), l1=1.0, kl=0.0, annealing=NONE, perceptual=0.5)


def test_annealing_scales_the_kl_term_only():
    annealing = {"kind": "monotonic", "num_steps": 100, "ratio": 0.5}
    total, terms, _ = loss_of_copy(step=10, l1=1.0, kl=0.1, annealing=annealing)
    assert float(terms["kl_factor"]) == pytest.approx(0.2)
    assert float(terms["kl"]) == pytest.approx(0.3**2 / 2)
    expected = float(terms["l1"]) + 0.2 * 0.1 * float(terms["kl"])
    assert float(total) == pytest.approx(expected)
