"""The VQ autoencoder as a system: its codebook in training, what later stages get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems.vqgan import VQGANSystem

MODEL = {"latent_channels": 2, "num_codes": 12, "stride": 4, "features": 16}
LOSSES = {"l1": 1.0, "perceptual": 0.0, "commitment": 0.25, "adversarial": 0.0}
DISCRIMINATOR = {"features": 8, "num_layers": 1, "start": 1}
OPTIM = {"learning_rate": 1e-2, "num_steps": 100}


def make_system(**changes):
    options = {"model": MODEL, "losses": LOSSES, "optim": OPTIM}
    options |= {"discriminator": DISCRIMINATOR} | changes
    return VQGANSystem(**options)


def make_batch(seed=0, b=2):
    values = np.random.default_rng(seed).integers(0, 256, (b, 2, 16, 16, 3))
    return {schema.VIDEO: jnp.asarray(values, jnp.uint8)}


@pytest.fixture(scope="module")
def trained():
    """States after 0, 1, 2 and 3 steps, and the scalars of these steps."""
    system = make_system(ema_decay=0.9)
    states = [jax.jit(system.init)(jax.random.key(0), make_batch())]
    step, scalars = jax.jit(system.train_step), []
    for k in range(3):
        after, values = step(states[-1], make_batch(k), jax.random.key(k))
        states.append(after)
        scalars.append(values)
    return system, states, scalars


def latents(system, params, batch):
    """[n, c] not quantised."""
    frames = to_float(batch[schema.VIDEO]).reshape(-1, 16, 16, 3)
    return np.asarray(
        system.net.apply({"params": params["net"]}, frames, method="encode")
    ).reshape(-1, 2)


def test_codes_of_the_first_step_lie_amid_their_latents(trained):
    system, states, _ = trained
    before, after = states[0].params, states[1].params
    points = latents(system, before, make_batch(0))
    old = np.asarray(before["net"]["codebook"])
    nearest = np.square(points[:, None] - old).sum(-1).argmin(1)
    for code in np.unique(nearest):
        np.testing.assert_allclose(
            after["net"]["codebook"][code], points[nearest == code].mean(0), rtol=1e-4
        )


def test_codes_without_latents_are_put_beside_the_others(trained):
    system, states, scalars = trained
    before, after = states[0].params, states[1].params
    points = latents(system, before, make_batch(0))
    old = np.asarray(before["net"]["codebook"])
    used = np.unique(np.square(points[:, None] - old).sum(-1).argmin(1))
    assert scalars[0]["dead_codes"] == len(old) - len(used) > 0
    new = np.asarray(after["net"]["codebook"])
    unused = np.setdiff1d(np.arange(len(old)), used)
    to_used = np.square(new[unused][:, None] - new[used]).sum(-1).min(1)
    assert (np.sqrt(to_used) < 5 * np.sqrt(scalars[0]["commitment"])).all()
    # They have taken latents over.
    now = np.unique(np.square(points[:, None] - new).sum(-1).argmin(1))
    assert len(now) > len(used)


def test_codes_follow_their_average_and_not_the_gradient(trained):
    system, states, _ = trained
    second, third = states[2].params, states[3].params
    points = latents(system, second, make_batch(2))
    codes = np.asarray(second["net"]["codebook"])
    nearest = np.square(points[:, None] - codes).sum(-1).argmin(1)
    share = np.bincount(nearest, minlength=12) / len(points)
    total = np.zeros_like(codes)
    np.add.at(total, nearest, points / len(points))
    share = 0.99 * np.asarray(second["code_share"]) + 0.01 * share
    total = 0.99 * np.asarray(second["code_total"]) + 0.01 * total
    alive = share >= 0.03 / 12
    np.testing.assert_allclose(
        np.asarray(third["net"]["codebook"])[alive],
        (total / share[:, None])[alive],
        rtol=1e-4,
        atol=1e-5,
    )
    # The averaged parameters have the same codes: these are an average already.
    np.testing.assert_array_equal(
        states[3].ema["net"]["codebook"], third["net"]["codebook"]
    )


def test_the_objective_is_the_sum_of_its_terms(trained):
    for values in trained[2]:
        expected = values["l1"] + 0.25 * values["commitment"]
        np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)
        assert 1 <= values["perplexity"] <= 12


def test_a_codebook_can_be_trained_by_gradient_and_left_alone():
    system = make_system(codebook="gradient", revive_below=0.0)
    state = jax.jit(system.init)(jax.random.key(0), make_batch())
    after, values = jax.jit(system.train_step)(state, make_batch(), jax.random.key(1))
    moved = np.asarray(
        after.params["net"]["codebook"] - state.params["net"]["codebook"]
    )
    used = np.abs(moved).max(1) > 0
    assert 0 < used.sum() < 12  # only codes that some latent is nearest to
    assert np.abs(moved[used]).max() <= 1.01e-2  # a step of Adam, no jump
    assert values["dead_codes"] == 0


@pytest.mark.slow
def test_parts_of_a_batch_give_the_same_codes():
    batch = make_batch(b=4)
    after = []
    for parts in (1, 2):
        system = make_system(accumulate=parts)
        state = jax.jit(system.init)(jax.random.key(0), batch)
        after.append(jax.jit(system.train_step)(state, batch, jax.random.key(1))[0])
    for name in ("code_share", "code_total", "latent_mean", "latent_variance"):
        np.testing.assert_allclose(
            after[0].params[name], after[1].params[name], rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(
        after[0].params["net"]["codebook"],
        after[1].params["net"]["codebook"],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.slow
def test_a_discriminator_plays_from_its_start_on():
    system = make_system(losses=LOSSES | {"adversarial": 0.5})
    states = [jax.jit(system.init)(jax.random.key(0), make_batch())]
    step, scalars = jax.jit(system.train_step), []
    for k in range(2):
        after, values = step(states[-1], make_batch(k), jax.random.key(k))
        states.append(after)
        scalars.append(values)
    plain = make_system()
    before = states[0].params
    alone = jax.jit(plain.init)(jax.random.key(0), make_batch())
    first, _ = jax.jit(plain.train_step)(alone, make_batch(0), jax.random.key(0))

    def same(one, other):
        return all(
            np.allclose(a, b, atol=1e-6)
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        )

    assert same(first.params["net"], states[1].params["net"])
    assert same(before["discriminator"], states[1].params["discriminator"])
    assert scalars[0]["adversarial_weight"] == 0
    assert not same(
        states[1].params["discriminator"], states[2].params["discriminator"]
    )
    assert scalars[1]["adversarial_weight"] > 0
    assert scalars[1]["perplexity"] > 1


def test_later_stages_see_unit_variance_and_frames_come_from_codes(trained):
    system, states, _ = trained
    params = states[1].params
    video = to_float(make_batch(0)[schema.VIDEO])
    scale = {k: params[k] for k in ("latent_mean", "latent_variance")}
    seen = system.encode(states[0].params | scale, video)
    np.testing.assert_allclose(seen.mean((0, 1, 2, 3)), [0, 0], atol=1e-4)
    np.testing.assert_allclose(seen.std((0, 1, 2, 3)), [1, 1], rtol=1e-3)
    # A change that crosses no border between codes changes no pixel.
    frames = system.decode(params, system.encode(params, video))
    moved = system.encode(params, video) + 1e-5
    np.testing.assert_allclose(system.decode(params, moved), frames, atol=1e-4)


def test_bad_settings_say_what_is_wanted():
    with pytest.raises(ValueError, match="average or gradient"):
        make_system(codebook="kmeans")
    with pytest.raises(ValueError, match="perceptual"):
        make_system(losses=LOSSES | {"perceptual": 1.0})
    with pytest.raises(ValueError, match="stride"):
        system = make_system()
        system.init(jax.random.key(0), {schema.VIDEO: jnp.zeros((1, 1, 18, 16, 3))})


def test_an_averaged_codebook_that_learns_by_gradient_is_an_average():
    system = make_system(codebook="gradient", revive_below=0.0, ema_decay=0.9)
    state = jax.jit(system.init)(jax.random.key(0), make_batch())
    first = np.asarray(state.params["net"]["codebook"])
    state, _ = jax.jit(system.train_step)(state, make_batch(0), jax.random.key(0))
    after = np.asarray(state.params["net"]["codebook"])
    assert np.abs(after - first).max() > 1e-3
    # The decay of the first step is (1 + 0) / (10 + 0).
    averaged = state.ema["net"]["codebook"]
    np.testing.assert_allclose(averaged, 0.1 * first + 0.9 * after, rtol=1e-5)


def test_a_discriminator_must_have_steps_and_no_scales_of_the_generator():
    playing = dict(losses=LOSSES | {"adversarial": 0.8})
    late = DISCRIMINATOR | {"start": 100}
    with pytest.raises(ValueError, match="discriminator.start=100 is not below train."):
        make_system(**playing, discriminator=late)
    scaled = make_system(**playing, optim=OPTIM | {"scales": {"net": 0.5}})
    jax.eval_shape(scaled.init, jax.random.key(0), make_batch())
