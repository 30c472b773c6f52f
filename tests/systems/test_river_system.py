"""RIVER: which frames are seen, the objective, sampling, and what is drawn of what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import river
from jax_vidpred.systems.river import RiverSystem, Sampling
from jax_vidpred.train import rngs

MODEL = {"features": 16, "num_heads": 2, "depth": 1, "mid_depth": 1, "dropout": 0.0}
SAMPLING = {"method": "heun", "num_steps": 2}
OPTIM = {"learning_rate": 1e-2, "num_steps": 100}
SHAPE = (4, 4, 2)  # of a latent


def make_system(vae_stage, **changes):
    options = {
        "model": MODEL,
        "losses": {"sigma": 1e-7},
        "optim": OPTIM,
        "num_context": 3,
        "sampling": SAMPLING,
        "stages": {"vae": vae_stage},
    }
    return RiverSystem(**options | changes)


@pytest.fixture(scope="module")
def system(vae_stage):
    return make_system(vae_stage)


@pytest.fixture(scope="module")
def params(system, vae_stage):
    """As if trained: the last convolution is not zero any more."""
    batch = {schema.VIDEO: jnp.zeros((1, 5, 16, 16, 3), jnp.uint8)}
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch).params["field"]
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.float32(scale * rng.normal(size=leaf.shape))

    return {"vae": vae_stage.params, "field": jax.tree.map(draw, shapes)}


def make_batch(b=2, t=5, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (b, t, 16, 16, 3))
    return {schema.VIDEO: jnp.asarray(values, jnp.uint8)}


# --- training -------------------------------------------------------------------------


def test_reference_is_the_frame_before_and_the_condition_any_before_that():
    keys = rngs.for_rows(jax.random.key(0), jnp.arange(3000))
    target, reference, condition = map(np.asarray, river._choose_frames(keys, 6))
    assert set(target) == {2, 3, 4, 5}
    np.testing.assert_array_equal(reference, target - 1)
    for chosen in (2, 3, 4, 5):
        assert set(condition[target == chosen]) == set(range(chosen - 1))
    # Equally likely: of 5, each of 4 conditions about a quarter of about 750.
    counts = np.bincount(condition[target == 5])
    assert counts.min() > 0.15 * counts.sum()


@pytest.mark.slow
def test_an_untrained_field_has_the_loss_of_saying_nothing(vae_stage, system):
    # It says 0, so E |z - (1 - sigma) n|^2 = E z^2 + (1 - sigma)^2 for each number.
    sigma = 0.25
    noisy = make_system(vae_stage, losses={"sigma": sigma})
    batch = make_batch(b=64)
    state = jax.jit(noisy.init)(jax.random.key(0), batch)
    _, scalars = jax.jit(noisy.train_step)(state, batch, jax.random.key(1))
    latents = system.vae.encode(vae_stage.params, to_float(batch[schema.VIDEO]))
    expected = float(jnp.square(latents).mean()) + (1 - sigma) ** 2
    # 64 clips of 32 numbers: their squares scatter by a few per cent.
    np.testing.assert_allclose(scalars["loss"], expected, rtol=0.06)


def test_the_field_is_asked_on_the_path_between_noise_and_the_target():
    target = jax.random.normal(jax.random.key(0), (4, *SHAPE))
    keys = rngs.for_rows(jax.random.key(1), jnp.arange(4))
    asked = {}

    def exact(latent, time):
        # What carries a latent to the target in the time that is left.
        asked["time"] = time
        left = (1 - (1 - 0.1) * time).reshape(-1, 1, 1, 1)
        return (target - (1 - 0.1) * latent) / jnp.broadcast_to(left, target.shape)

    error = river._flow_matching_terms(target, keys, exact, sigma=0.1)
    np.testing.assert_allclose(error, np.zeros(4), atol=1e-8)
    assert len(np.unique(asked["time"])) == 4


@pytest.mark.slow
def test_colours_are_changed_in_training_by_each_clip_s_own_key(vae_stage, system):
    batch, losses = make_batch(b=4), []
    strengths = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.5}
    changed = {"augment": strengths}
    others = [make_system(vae_stage, **changed, accumulate=parts) for parts in (1, 2)]
    for one in (system, *others):
        state = jax.jit(one.init)(jax.random.key(0), batch)
        _, scalars = jax.jit(one.train_step)(state, batch, jax.random.key(1))
        losses.append(float(scalars["loss"]))
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-3
    with pytest.raises(ValueError, match="cache_latents=True with augment"):
        make_system(vae_stage, **changed, cache_latents=True)


@pytest.mark.slow
def test_a_step_trains_the_field_and_nothing_else(system, vae_stage):
    batch = make_batch()
    state = jax.jit(system.init)(jax.random.key(0), batch)
    after, scalars = jax.jit(system.train_step)(state, batch, jax.random.key(0))
    assert set(after.params) == {"field"}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, after.params)
    assert moved["field"]["out_conv"]["kernel"]
    assert np.isfinite(scalars["loss"])
    jax.tree.map(np.testing.assert_array_equal, after.frozen["vae"], vae_stage.params)


@pytest.mark.slow
def test_parts_of_a_batch_draw_what_the_whole_draws(vae_stage):
    batch = make_batch(b=4)
    losses = []
    for parts in (1, 2):
        system = make_system(
            vae_stage, accumulate=parts, model=MODEL | {"dropout": 0.5}
        )
        state = jax.jit(system.init)(jax.random.key(0), batch)
        step = jax.jit(system.train_step)
        state, _ = step(state, batch, jax.random.key(0))
        losses.append(step(state, batch, jax.random.key(1))[1]["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_clips_that_are_too_short_are_an_error_before_compilation(system):
    with pytest.raises(ValueError, match="at least 3"):
        jax.eval_shape(system.init, jax.random.key(0), make_batch(t=2))


# --- sampling -------------------------------------------------------------------------


def watched(latents, num_future, **sampling):
    """The arguments of every evaluation of a field that says 0, and the latents."""
    seen = []

    def field(latent, reference, condition, distance, time):
        seen.append((reference, condition, distance, time))
        return jnp.zeros_like(latent)

    with jax.disable_jit():
        made = river.roll_out(
            field,
            latents,
            num_future,
            rngs.for_rows(jax.random.key(0), jnp.arange(len(latents))),
            Sampling(**sampling),
            sigma=0.0,
        )
    return made, seen


def numbered(t, b=1):
    """Latents that say which frame they are: [b, t, ...] with the frame's number."""
    return jnp.broadcast_to(jnp.arange(t * 1.0).reshape(1, t, 1, 1, 1), (b, t, *SHAPE))


@pytest.mark.slow
def test_every_evaluation_hears_another_frame_at_its_distance():
    _, seen = watched(numbered(6), 1, method="rk4", num_steps=6)
    assert len(seen) == 24
    for reference, condition, distance, _ in seen:
        assert reference.min() == reference.max() == 5
        np.testing.assert_array_equal(condition[:, 0, 0, 0], 5 - distance)
    heard = [int(condition.max()) for _, condition, _, _ in seen]
    assert set(heard) == {0, 1, 2, 3, 4}


@pytest.mark.slow
def test_past_horizon_limits_the_past():
    for horizon, allowed in ((2, {4}), (4, {2, 3, 4}), (99, {0, 1, 2, 3, 4})):
        _, seen = watched(
            numbered(6), 1, method="euler", num_steps=40, past_horizon=horizon
        )
        assert {int(condition.max()) for _, condition, _, _ in seen} == allowed


@pytest.mark.slow
def test_predicted_frames_become_the_past():
    made, seen = watched(numbered(3), 2, method="euler", num_steps=30)
    second = seen[30:]
    for reference, _, _, _ in second:
        np.testing.assert_array_equal(reference, made[0])
    assert {int(distance.max()) for _, _, distance, _ in second} == {1, 2, 3}


def test_a_warm_start_begins_at_the_noisy_latent_before():
    cold, seen = watched(numbered(3, b=8), 1, method="euler", num_steps=4)
    assert [float(time.max()) for *_, time in seen] == [0.0, 0.25, 0.5, 0.75]
    warm, seen = watched(
        numbered(3, b=8), 1, method="euler", num_steps=4, warm_start=0.8
    )
    np.testing.assert_allclose(float(seen[0][3].max()), 0.8, rtol=1e-6)
    # The field says 0: what comes out is what it began with, for the same noise.
    np.testing.assert_allclose(warm, 0.2 * cold + 0.8 * 2.0, rtol=1e-4, atol=1e-5)


def test_the_exact_field_arrives_at_the_target():
    target = jax.random.normal(jax.random.key(5), (3, *SHAPE))

    def field(latent, reference, condition, distance, time):
        left = jnp.broadcast_to((1 - time).reshape(-1, 1, 1, 1), latent.shape)
        return (target - latent) / left

    made = jax.jit(
        functools.partial(
            river.roll_out,
            field,
            num_future=2,
            sampling=Sampling("euler", 5),
            sigma=0.0,
        )
    )(numbered(2, b=3), keys=rngs.for_rows(jax.random.key(0), jnp.arange(3)))
    np.testing.assert_allclose(made, jnp.stack([target, target]), atol=1e-4)


def test_futures_follow_from_the_key_alone(system, params):
    context = to_float(make_batch()[schema.VIDEO])
    predict = jax.jit(system.predict, static_argnames=("num_future", "sampling"))
    first = predict(params, context, 3, jax.random.key(0)).video
    assert first.shape == (2, 3, 16, 16, 3)
    assert first.min() >= 0 and first.max() <= 1
    again = predict(params, context, 3, jax.random.key(0)).video
    other = predict(params, context, 3, jax.random.key(1)).video
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    # Longer futures begin as shorter ones.
    longer = predict(params, context, 4, jax.random.key(0)).video
    np.testing.assert_allclose(longer[:, :3], first, atol=1e-5)
    # Two equal contexts have two futures.
    twice = predict(params, jnp.stack([context[0]] * 2), 3, jax.random.key(0)).video
    assert np.abs(twice[0] - twice[1]).max() > 1e-3


@pytest.mark.slow
def test_one_frame_counts_as_two_equal_ones(system, params):
    frame = to_float(make_batch()[schema.VIDEO])[:, :1]
    one, two = (
        system.predict(params, context, 2, jax.random.key(0)).video
        for context in (frame, jnp.repeat(frame, 2, axis=1))
    )
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"method": "dopri5"}, "dopri5"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"warm_start": 1.0}, "below 1"),
        ({"past_horizon": 1}, "at least 2"),
        ({"past_horizon": 0}, "at least 2"),
    ],
)
def test_a_way_of_sampling_that_cannot_be_says_so(vae_stage, wrong, said):
    with pytest.raises(ValueError, match=said):
        make_system(vae_stage, sampling=SAMPLING | wrong)
