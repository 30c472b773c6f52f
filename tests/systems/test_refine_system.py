"""Refinement: pairs, objective, what is learned, and refining frame after frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import refine as config_file
from jax_vidpred import systems
from jax_vidpred.data import schema
from jax_vidpred.evaluation.scores import baseline_videos
from jax_vidpred.ops.image import to_float
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.systems.refine import RefinedPredictor, RefineSystem, refine_system
from jax_vidpred.train import rngs
from jax_vidpred.train.protocol import Prediction, Stage
from jax_vidpred.train.state import TrainState

CONTEXT, SIZE = 2, 8


class Blur:
    """Stands in for an autoencoder: a frame comes back as the mean of 3x3 pixels."""

    def encode(self, params, video):
        return video * params["gain"]

    def decode(self, params, latents):
        del params
        shifted = [jnp.roll(latents, (y, x), (-3, -2)) for y in near for x in near]
        return sum(shifted) / len(shifted)


near = (-1, 0, 1)


class Repeat:
    """Stands in for a predictor: the last frame stays, blurred and with noise."""

    stochastic = True
    num_context = CONTEXT
    min_context = 2
    vae = Blur()

    def predict(self, params, context, num_future, rng):
        last = self.vae.decode(None, self.vae.encode(params["vae"], context[:, -1:]))
        keys = rngs.for_rows(rng, jnp.arange(len(context)))
        noise = jax.vmap(lambda key: jax.random.normal(key, last.shape[1:]))(keys)
        frame = jnp.clip(last + params["noise"] * noise, 0, 1)
        video = jnp.repeat(frame, num_future, 1)
        return Prediction(video=video, aux={"seen": context.mean((2, 3, 4))})


class RepeatPixels(Repeat):
    """The same without a first stage that others could see."""

    @property
    def vae(self):
        raise AttributeError("vae")

    def predict(self, params, context, num_future, rng):
        del params, rng
        return Prediction(video=jnp.repeat(context[:, -1:], num_future, 1))


VAE = Stage(Blur(), {"gain": jnp.float32(0.9)})
PREDICTOR = Stage(Repeat(), {"vae": VAE.params, "noise": jnp.float32(0.05)})


def make_system(stages=None, **changes):
    options = {
        "model": {
            "features": 8,
            "num_groups": 1,
            "blocks_per_group": 1,
            "reduction": 4,
        },
        "losses": {"l2": 1.0, "l1": 0.0, "perceptual": 0.0},
        "optim": {"learning_rate": 1e-2, "num_steps": 100, "schedule": "constant"},
        "stages": stages or {"predictor": PREDICTOR},
    }
    return refine_system(**options | changes)


def make_batch(b=4, t=CONTEXT + 2, seed=0):
    """Clips in which nothing moves, so that the frame before tells all."""
    images = np.random.default_rng(seed).integers(0, 256, (b, 1, SIZE, SIZE, 3))
    return {schema.VIDEO: jnp.asarray(np.repeat(images, t, 1), jnp.uint8)}


def start(system, batch):
    return jax.jit(system.init)(jax.random.key(0), batch)


def trained(system, num_steps=30):
    state, step = start(system, make_batch()), jax.jit(system.train_step)
    scalars = []
    for k in range(num_steps):
        state, values = step(state, make_batch(seed=k), jax.random.key(k))
        scalars.append(values)
    return state, scalars


@pytest.fixture(scope="module")
def system():
    return make_system()


@pytest.fixture(scope="module")
def run(system):
    return trained(system)


@pytest.fixture(scope="module")
def params(system, run):
    state, _ = run
    return {**system.frozen, **state.prediction_params}


# --- what it is made of ---------------------------------------------------------------


def test_on_a_first_stage_it_does_not_predict():
    system = make_system({"vae": VAE})
    assert type(system) is RefineSystem and not hasattr(system, "predict")
    assert system.frozen == {"vae": VAE.params}


def test_on_a_predictor_it_is_one_like_it(system):
    assert isinstance(system, RefinedPredictor)
    assert system.stochastic and system.num_context == CONTEXT
    assert system.vae is PREDICTOR.system.vae
    plain = Stage(RepeatPixels(), {"net": jnp.zeros(1)})
    plain.system.stochastic = False
    refined = make_system({"predictor": plain}, degraded="predicted")
    assert not refined.stochastic and not hasattr(refined, "vae")
    state = start(refined, make_batch())
    out = jax.jit(refined.eval_step)(state, make_batch(), jax.random.key(0))
    np.testing.assert_allclose(out["psnr"], out["psnr_unrefined"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stages": {"vae": VAE}, "degraded": "predicted"}, "without a stage `predic"),
        ({"degraded": "noisy"}, r"must be one of \('decoded', 'predicted'\)"),
        (
            {"stages": {"predictor": Stage(RepeatPixels(), {})}},
            r"degraded='decoded'; on this predictor .* \('predicted',\)",
        ),
        (
            {"losses": {"l2": 1.0, "l1": 0.0, "perceptual": 0.5}},
            "perceptual=0.5 needs a perceptual function",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_system(**options)


@pytest.mark.parametrize("degraded, least", [("decoded", 2), ("predicted", 3)])
def test_clips_that_are_too_short_are_refused(degraded, least):
    system = make_system(degraded=degraded)
    start(system, make_batch(t=least))
    with pytest.raises(
        ValueError, match=f"{least - 1} frames; wanted at least {least}"
    ):
        start(system, make_batch(t=least - 1))


# --- training -------------------------------------------------------------------------


def test_untrained_it_does_no_harm(system):
    batch = make_batch()
    state = start(system, batch)
    _, scalars = jax.jit(system.train_step)(state, batch, jax.random.key(0))
    assert scalars["l2"] == scalars["l2_before"] > 0.01
    out = jax.jit(system.eval_step)(state, batch, jax.random.key(0))
    np.testing.assert_array_equal(out["psnr"], out["psnr_unrefined"])
    assert out["psnr"].shape == (4,)


def test_a_few_steps_refine(system, run):
    """Decoded frames had an error of 0.081; 30 steps left 0.007 of it."""
    state, scalars = run
    assert float(scalars[-1]["l2"]) < 0.3 * float(scalars[-1]["l2_before"])
    unseen = make_batch(seed=1000)
    out = jax.jit(system.eval_step)(state, unseen, jax.random.key(0))
    assert np.all(out["psnr"] > out["psnr_unrefined"] + 4)
    reconstruction = make_system({"vae": VAE})
    out = jax.jit(reconstruction.eval_step)(
        state.replace(frozen=reconstruction.frozen), unseen, jax.random.key(0)
    )
    assert np.all(out["psnr"] > out["psnr_decoded"] + 5)


def test_what_was_learned_needs_the_frame_before(system, params):
    video = to_float(make_batch(seed=1000)[schema.VIDEO])
    frame = system.vae.decode(None, video)[:, 0]

    def error(previous):
        refined = system.net.apply({"params": params["refiner"]}, previous, frame)
        return float(jnp.mean((refined - video[:, 0]) ** 2))

    assert error(video[:, 0]) < 0.8 * error(video[::-1, 0])


def test_a_step_trains_the_refiner_and_nothing_else(system):
    batch = make_batch()
    state = start(system, batch)
    after, _ = jax.jit(system.train_step)(state, batch, jax.random.key(0))
    assert set(after.params) == {"refiner"}
    assert np.any(after.params["refiner"]["tail"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, after.frozen, system.frozen)


@pytest.mark.parametrize("degraded", ["decoded", "predicted"])
def test_no_gradient_reaches_the_frozen_stage(degraded):
    system, batch = make_system(degraded=degraded), make_batch()
    state = start(system, batch)

    def loss(frozen):
        changed = state.replace(frozen=frozen)
        return system.train_step(changed, batch, jax.random.key(0))[1]["loss"]

    louder = {**state.frozen, "vae": {"gain": jnp.float32(0.5)}}
    value, gradient = jax.jit(jax.value_and_grad(loss))(state.frozen)
    assert abs(float(jax.jit(loss)(louder) - value)) > 1e-3  # it matters
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_decoded_frames_are_refined_on_the_true_frame_before(system):
    video = jax.random.uniform(jax.random.key(0), (2, 4, SIZE, SIZE, 3))
    rng = jax.random.key(1)
    previous, frame, target = system._pairs(system.frozen, video, rng)
    np.testing.assert_array_equal(previous, video[:, :-1])
    np.testing.assert_array_equal(target, video[:, 1:])
    blurred = system.vae.decode(None, 0.9 * video[:, 1:])
    np.testing.assert_allclose(frame, blurred, atol=1e-6)


def test_predicted_frames_are_the_first_after_the_true_past():
    system = make_system(degraded="predicted")
    video = jax.random.uniform(jax.random.key(0), (2, 4, SIZE, SIZE, 3))
    rng = jax.random.key(1)
    previous, frame, target = system._pairs(system.frozen, video, rng)
    np.testing.assert_array_equal(previous, video[:, 1:2])
    np.testing.assert_array_equal(target, video[:, 2:3])
    made = PREDICTOR.system.predict(PREDICTOR.params, video[:, :CONTEXT], 1, rng)
    np.testing.assert_allclose(frame, made.video, atol=1e-6)


@pytest.mark.slow
def test_a_clip_is_predicted_alike_in_any_part_of_a_batch():
    batch, values = make_batch(), []
    for accumulate in (1, 2, 4):
        system = make_system(degraded="predicted", accumulate=accumulate)
        state = start(system, batch)
        _, scalars = jax.jit(system.train_step)(state, batch, jax.random.key(0))
        values.append(float(scalars["loss"]))
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_loss_is_the_weighted_sum_of_its_terms():
    seen = []

    def distance(prediction, target):
        seen.append((prediction.shape, target.shape))
        return jnp.full(len(prediction), 2.0)

    losses = {"l2": 0.5, "l1": 0.25, "perceptual": 0.125}
    system, batch = make_system(losses=losses, perceptual=distance), make_batch()
    state = start(system, batch)
    _, scalars = jax.jit(system.train_step)(state, batch, jax.random.key(0))
    expected = 0.5 * scalars["l2"] + 0.25 * scalars["l1"] + 0.125 * 2
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-6)
    assert scalars["l1"] > scalars["l2"] > 0
    assert set(seen) == {((12, SIZE, SIZE, 3),) * 2}  # 4 clips of 3 pairs


# --- prediction -----------------------------------------------------------------------


def test_refines_each_frame_on_the_refined_one_before(system, params):
    context = jax.random.uniform(jax.random.key(0), (2, CONTEXT, SIZE, SIZE, 3))
    rng = jax.random.key(1)
    predicted = jax.jit(system.predict, static_argnums=2)(params, context, 4, rng)
    unrefined = PREDICTOR.system.predict(PREDICTOR.params, context, 4, rng)
    np.testing.assert_array_equal(predicted.aux["seen"], unrefined.aux["seen"])
    previous = context[:, -1]
    for k in range(4):
        frame = unrefined.video[:, k]
        refined = system.net.apply({"params": params["refiner"]}, previous, frame)
        previous = jnp.clip(refined, 0, 1)
        np.testing.assert_allclose(predicted.video[:, k], previous, atol=1e-5)
    # The unrefined frames are all the same: only the frame before differs.
    assert np.abs(predicted.video[:, 0] - predicted.video[:, 2]).max() > 0.01


def test_library_and_evaluation_find_what_they_ask_for(system, params):
    config = {
        "system": {"name": "refine"},
        "data": {"height": SIZE, "width": SIZE, "clip_stride": 1},
        "eval": {"clip_frames": CONTEXT + 2},
    }
    predictor = VideoPredictor(Stage(system, params), config)
    video = np.asarray(make_batch()[schema.VIDEO])
    futures = predictor.draw(video[:, :CONTEXT], num_future=2, num_samples=3)
    assert futures.shape == (3, 4, 2, SIZE, SIZE, 3)
    assert np.abs(futures[0] - futures[1]).max() > 0.01
    videos = baseline_videos(
        system, params, video, None, size=(SIZE, SIZE), num_context=CONTEXT
    )
    ceiling = system.vae.decode(None, 0.9 * to_float(video[:, CONTEXT:]))
    np.testing.assert_allclose(videos["VAE ceiling"], ceiling, atol=1e-6)


@pytest.mark.parametrize(
    "stages, name, columns",
    [({"vae": VAE}, "reconstruction", 3), (None, "continuation", 2)],
)
def test_samples_show_the_truth_first(stages, name, columns):
    system, batch = make_system(stages), make_batch()
    state = start(system, batch)
    shown = jax.jit(system.samples)(state, batch, jax.random.key(0))[name]
    assert shown.shape[3] == columns * SIZE
    truth = to_float(batch[schema.VIDEO])[:, -shown.shape[1] :]
    np.testing.assert_allclose(shown[:, :, :, :SIZE], truth, atol=1e-6)


# --- configs --------------------------------------------------------------------------


def zeros_stage(config):
    """What a config describes, and all that it requires, with parameters of zeros."""
    required = {name: zeros_stage(one) for name, one in config["requires"].items()}
    system = systems.create(config, required)
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch_of(config))
    params = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes.params)
    return Stage(system, {**system.frozen, **params})


def batch_of(config):
    data = config["data"]
    shape = (data["batch_size"], data["clip_frames"], data["height"], data["width"], 3)
    return {schema.VIDEO: jnp.zeros(shape, jnp.uint8)}


@pytest.mark.parametrize("variant", ["smoke", "clevrer", "predicted"])
def test_configs_describe_a_system_that_trains(variant):
    config = config_file.get_config(variant)
    config.requires.predictor.system.cache_latents = (
        False  # its parameters are the same
    )
    config = config.to_dict()
    system = zeros_stage(config).system
    batch, rng = batch_of(config), jax.random.key(0)
    state = jax.eval_shape(system.init, rng, batch)
    assert isinstance(state, TrainState)
    _, scalars = jax.eval_shape(system.train_step, state, batch, rng)
    assert scalars["l2"].shape == ()
    assert system.degraded == ("predicted" if variant == "predicted" else "decoded")
