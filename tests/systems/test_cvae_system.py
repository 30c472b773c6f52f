"""The conditional VAE: objective, labels told or withheld, no leak, split batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.losses.kl import kl_divergence
from jax_vidpred.metrics import frame
from jax_vidpred.models.cvae import Rollout
from jax_vidpred.ops import geometry, state_maps
from jax_vidpred.ops.image import to_float
from jax_vidpred.systems.cvae import CVAELoss, CVAESystem

CONTEXT, FUTURE, SIZE, SLOTS = 3, 2, 16, 2
MODEL = {"features": 16, "label_features": 8, "num_blocks": 1, "latent_channels": 2}
NONE = {"kind": "none", "num_steps": 1}
LOSSES = {"reconstruction": "mse", "kl": 0.1, "annealing": NONE}
KEY = jax.random.key(5)


def make(**changes):
    options = {
        "model": MODEL,
        "losses": LOSSES,
        "optim": {"learning_rate": 1e-2, "num_steps": 100},
        "num_context": CONTEXT,
        "teacher_forcing": {"kind": "linear", "num_steps": 10},
    }
    return CVAESystem(**options | changes)


def make_batch(b=2, t=CONTEXT + FUTURE, seed=0):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (b, t, SIZE, SIZE, 3))
    return {
        schema.VIDEO: jnp.asarray(video, "uint8"),
        schema.LABEL: jnp.asarray(video[::-1], "uint8"),
        schema.STATE: jnp.float32(rng.uniform(-1, 1, (b, t, SLOTS, 4))),
        schema.PRESENT: jnp.ones((b, t, SLOTS), bool),
    }


def some_state(system, seed=1):
    """Parameters as if trained, with no zeros; initialising would have to compile."""
    shapes = jax.eval_shape(system.init, KEY, make_batch())
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = 0.3 if leaf.ndim == 1 else 1.5 * np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.float32(scale * rng.normal(size=leaf.shape))

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros.replace(params=jax.tree.map(draw, shapes.params))


@pytest.fixture(scope="module")
def told():
    system = make()
    return system, some_state(system)


@pytest.fixture(scope="module")
def predict(told):
    system, state = told
    compiled = jax.jit(system.predict, static_argnums=2)

    def run(batch, labels, num_future=FUTURE, rng=KEY):
        context = to_float(batch[schema.VIDEO])[:, :CONTEXT]
        return compiled(state.params, context, num_future, rng, labels).video

    return run


def labels_of(batch, frames=slice(None)):
    return {key: batch[key][:, frames] for key in (schema.STATE, schema.PRESENT)}


# --- objective ----------------------------------------------------------------------


def test_objective_by_hand():
    mean = jnp.full((2, 4, 1, 1, 3), 0.5)
    rollout = Rollout(jnp.full((2, 4, 2, 2, 3), 0.7), mean, 0 * mean + 1.0)
    annealing = {"kind": "monotonic", "num_steps": 100, "ratio": 0.5}
    loss = CVAELoss(reconstruction="mse", kl=0.1, annealing=annealing)
    total, terms = loss(rollout, jnp.full((2, 4, 2, 2, 3), 0.4), jnp.int32(10))
    assert set(terms) == {"mse", "kl", "kl_factor"}
    divergence = (0.25 + np.e - 1 - 1) / 2
    assert float(terms["mse"]) == pytest.approx(0.09, rel=1e-5)
    assert float(terms["kl"]) == pytest.approx(divergence, rel=1e-5)
    expected = kl_divergence(rollout.mean, rollout.logvar).mean()
    assert float(terms["kl"]) == pytest.approx(float(expected))
    assert float(terms["kl_factor"]) == pytest.approx(0.2)
    assert float(total) == pytest.approx(0.09 + 0.2 * 0.1 * divergence, rel=1e-5)


def test_bad_options_are_one_line():
    for changes, message in [
        ({"labels": "words"}, "'words' are unknown; use one of states, images, none"),
        ({"losses": LOSSES | {"reconstruction": "l3"}}, "'l3' is unknown; use mse or"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            make(**changes)
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def steps(told):
    """State and scalars after one step on four clips, worked on whole and in halves."""
    _, state = told
    batch, results = make_batch(b=4), {}
    for parts in (1, 2):
        system = make(accumulate=parts)
        results[parts] = jax.jit(system.train_step)(state, batch, KEY)
    return results


def test_parts_of_a_batch_make_no_difference(steps):
    (whole, scalars), (parted, same) = steps[1], steps[2]
    for name, value in scalars.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-4, err_msg=name)
    first = [jax.tree.leaves(one.opt_state) for one in (whole, parted)]
    for a, b in zip(*first, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3)


def test_a_step_reports_its_terms_and_trains_everything(steps, told):
    after, scalars = steps[1]
    assert {"mse", "kl", "kl_factor", "teacher_forcing_ratio", "loss"} <= set(scalars)
    expected = scalars["mse"] + 0.1 * scalars["kl"]
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-5)
    assert float(scalars["teacher_forcing_ratio"]) == 1.0
    moved = jax.tree.map(lambda a, b: np.any(a != b), told[1].params, after.params)
    assert all(jax.tree.leaves(moved))


def test_labels_are_withheld_from_some_clips_wholly():
    system = make(label_dropout=0.25)
    batch = make_batch(b=400, t=2)
    batch[schema.ROW] = jnp.arange(400)
    video = to_float(batch[schema.VIDEO])
    draw = jax.jit(system._training_labels)
    maps = np.asarray(draw(video, batch, KEY))
    given = maps[..., -1].max((1, 2, 3)) > 0
    assert given.mean() == pytest.approx(0.75, abs=0.07)  # standard error 0.02
    assert not maps[~given].any()
    full = system._maps(batch, video)
    np.testing.assert_allclose(maps[given], full[given], atol=1e-6)
    assert (full[..., -1] == 1).all()
    half = {key: array[200:] for key, array in batch.items()}
    np.testing.assert_allclose(draw(video[200:], half, KEY), maps[200:], atol=1e-6)


def test_adaptive_teacher_forcing_is_kept_in_the_state():
    forcing = {"kind": "adaptive", "start": 0.5, "hold": 1, "compare": "previous"}
    system = make(teacher_forcing=forcing)
    state = jax.eval_shape(system.init, KEY, make_batch())
    state = state.replace(extra=system.teacher_forcing.initial())
    for score, ratio in ((20, 0.5), (21, 0.4), (19, 0.5), (19.5, 0.4)):
        state = system.after_evaluation(state, {"psnr": score, "psnr_told": 0})
        assert float(system.teacher_forcing.ratio(state)) == pytest.approx(ratio)


# --- labels -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["states", "images", "none"])
def test_each_kind_of_label_names_its_keys_and_trains(labels):
    system, batch = make(labels=labels), make_batch()
    keys = {
        "states": (schema.STATE, schema.PRESENT),
        "images": (schema.LABEL,),
        "none": (),
    }[labels]
    assert system.label_keys == keys
    assert system.required_keys == (schema.VIDEO, *keys)
    batch = {key: batch[key] for key in system.required_keys}
    state = jax.eval_shape(system.init, KEY, batch)
    after, scalars = jax.eval_shape(system.train_step, state, batch, KEY)
    assert "mse" in scalars
    metrics = jax.eval_shape(system.eval_step, state, batch, KEY)
    assert ("psnr_told" in metrics) == bool(keys)
    shown = jax.eval_shape(system.samples, state, batch, KEY)
    assert set(shown) == ({"continuation", "told"} if keys else {"continuation"})
    context = to_float(batch[schema.VIDEO])[:, :CONTEXT]
    given = {key: batch[key][:, :CONTEXT] for key in keys} or None
    for known in (None, given):
        prediction = jax.eval_shape(
            lambda p, c, known=known: system.predict(p, c, 4, KEY, known),
            state.params,
            context,
        )
        assert prediction.video.shape == (2, 4, SIZE, SIZE, 3)


@pytest.mark.slow
def test_the_model_sees_maps_of_the_frame_that_it_predicts(told):
    system, _ = told
    batch = make_batch()
    context = to_float(batch[schema.VIDEO])[:, :CONTEXT]
    labels = labels_of(batch)
    maps = system._future_labels(labels, context, FUTURE)
    full = state_maps.render_states(*labels.values(), 4, 4)
    np.testing.assert_allclose(maps[..., :-1], full[:, CONTEXT - 1 :], atol=1e-6)
    # Of the context alone: on at constant velocity, from its last frame.
    maps = system._future_labels(labels_of(batch, slice(CONTEXT)), context, FUTURE)
    state, present = state_maps.extend_constant_velocity(
        labels[schema.STATE][:, :CONTEXT],
        labels[schema.PRESENT][:, :CONTEXT],
        CONTEXT + FUTURE,
        2 * schema.FRAME_SECONDS,
    )
    full = state_maps.render_states(state, present, 4, 4)
    np.testing.assert_allclose(maps[..., :-1], full[:, CONTEXT - 1 :], atol=1e-6)
    assert (maps[..., -1] == 1).all()
    assert not system._future_labels(None, context, FUTURE).any()


def test_pictures_are_not_made_up():
    system, batch = make(labels="images"), make_batch()
    video = to_float(batch[schema.VIDEO])
    known = {schema.LABEL: batch[schema.LABEL][:, : CONTEXT + 1]}
    maps = system._future_labels(known, video[:, :CONTEXT], FUTURE)
    picture = to_float(batch[schema.LABEL])[:, CONTEXT]
    np.testing.assert_array_equal(maps[:, 0, ..., :3], picture)
    assert (maps[:, 0, ..., 3] == 1).all() and not maps[:, 1:].any()


def test_labels_that_cannot_be_used_are_told(told):
    system, _ = told
    batch = make_batch()
    context = to_float(batch[schema.VIDEO])[:, :CONTEXT]
    for labels, message in [
        (labels_of(batch, slice(2)), "'state'. has 2 frames; wanted .* the 3 of the"),
        ({schema.STATE: batch[schema.STATE]}, "labels are .'state'., this system wan"),
    ]:
        with pytest.raises(ValueError, match=message):
            system.predict({}, context, FUTURE, KEY, labels)


# --- prediction ---------------------------------------------------------------------


def test_prediction_sees_no_true_future(told):
    """Neither frames nor labels of it change what is scored without being told."""
    system, state = told
    batch = make_batch()
    evaluate = jax.jit(system.eval_step)
    shown = jax.jit(system.samples)
    videos = shown(state, batch, KEY)
    other = dict(batch)
    other[schema.STATE] = batch[schema.STATE].at[:, CONTEXT:].add(0.5)
    changed = shown(state, other, KEY)
    np.testing.assert_array_equal(changed["continuation"], videos["continuation"])
    assert np.abs(changed["told"] - videos["told"]).max() > 1e-3
    metrics, moved = evaluate(state, batch, KEY), evaluate(state, other, KEY)
    np.testing.assert_array_equal(moved["psnr"], metrics["psnr"])
    assert np.all(moved["psnr_told"] != metrics["psnr_told"])
    other[schema.VIDEO] = batch[schema.VIDEO].at[:, CONTEXT:].set(0)
    right = slice(SIZE, None)  # beside the true clip
    for name, video in shown(state, other, KEY).items():
        expected = changed[name][:, :, :, right]
        np.testing.assert_array_equal(video[:, :, :, right], expected)


def test_the_posterior_is_for_training_alone(told):
    system, state = told
    batch = make_batch()
    context = to_float(batch[schema.VIDEO])[:, :CONTEXT]

    def total(params):
        return system.predict(
            params, context, FUTURE, KEY, labels_of(batch)
        ).video.sum()

    gradients = jax.jit(jax.grad(total))(state.params)
    used = {name: any(map(np.any, jax.tree.leaves(g))) for name, g in gradients.items()}
    assert not used.pop("gaussian_predictor")
    assert used and all(used.values())


def test_evaluation_scores_what_predict_gives(told, predict):
    system, state = told
    batch = make_batch()
    metrics = jax.jit(system.eval_step)(state, batch, KEY)
    future = to_float(batch[schema.VIDEO])[:, CONTEXT:]
    for name, labels in (
        ("psnr", labels_of(batch, slice(CONTEXT))),
        ("psnr_told", labels_of(batch)),
    ):
        expected = frame.psnr(predict(batch, labels), future).mean(1)
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-4)
    last = to_float(batch[schema.VIDEO])[:, CONTEXT - 1 : CONTEXT]
    copied = frame.psnr(jnp.broadcast_to(last, future.shape), future).mean(1)
    np.testing.assert_allclose(metrics["psnr_copy_last"], copied, rtol=1e-5)


def test_the_last_frame_of_the_context_is_continued(predict):
    batch = make_batch()
    expected = predict(batch, labels_of(batch))
    for at, same in ((CONTEXT - 2, True), (CONTEXT - 1, False)):
        other = {**batch, schema.VIDEO: batch[schema.VIDEO].at[:, at].set(0)}
        change = np.abs(predict(other, labels_of(batch)) - expected).max()
        assert (change == 0) == same


def test_futures_vary_by_key_and_by_video(predict):
    batch = make_batch()
    twice = {key: jnp.stack([array[0]] * 2) for key, array in batch.items()}
    labels = labels_of(twice)
    one = predict(twice, labels)
    assert np.abs(one[0] - one[1]).max() > 1e-3
    np.testing.assert_array_equal(predict(twice, labels), one)
    assert np.abs(predict(twice, labels, rng=jax.random.key(6)) - one).max() > 1e-3
    longer = predict(twice, labels, FUTURE + 2)
    np.testing.assert_allclose(longer[:, :FUTURE], one, atol=1e-5)


# --- steering -----------------------------------------------------------------------


def moving_square(rng, b, t, size=32):
    """Clips of a bright square that wanders over the floor, and its states."""
    start, velocity = rng.uniform(-1.2, 1.2, (2, b, 1, 2))
    steps = np.arange(t).reshape(1, t, 1)
    xy = np.clip(start + 0.15 * velocity * steps, -1.4, 1.4)
    points = np.concatenate([xy, np.full((b, t, 1), 0.2)], -1)
    uv, _ = geometry.project(points, size, size)
    y, x = np.mgrid[:size, :size] + 0.5
    inside = np.maximum(
        abs(x - uv[..., 0, None, None]), abs(y - uv[..., 1, None, None])
    )
    video = np.where((inside < 3)[..., None], [230, 200, 60], [90, 90, 90])
    state = np.concatenate([xy, 0 * xy], -1)[:, :, None]
    return {
        schema.VIDEO: jnp.asarray(video, "uint8"),
        schema.STATE: jnp.float32(state),
        schema.PRESENT: jnp.ones((b, t, 1), bool),
    }


def centroid(frame):
    bright = np.maximum(np.asarray(frame)[..., 0] - 0.5, 0)
    y, x = np.mgrid[: bright.shape[0], : bright.shape[1]] + 0.5
    return np.array([(bright * x).sum(), (bright * y).sum()]) / bright.sum()


@pytest.mark.slow
def test_an_object_goes_where_the_label_says():
    rng = np.random.default_rng(0)
    system = make(
        model=MODEL | {"features": 24},
        losses=LOSSES | {"kl": 1e-3},
        optim={"learning_rate": 5e-3, "num_steps": 250, "warmup_steps": 10},
        num_context=2,
        teacher_forcing={"kind": "linear", "num_steps": 200},
    )
    state = jax.jit(system.init)(KEY, moving_square(rng, 8, 5))
    step = jax.jit(system.train_step, donate_argnums=0)
    for k in range(250):
        batch = moving_square(rng, 8, 5)
        state, _ = step(state, batch, jax.random.fold_in(KEY, k))

    batch = moving_square(np.random.default_rng(1), 4, 6)
    context = to_float(batch[schema.VIDEO])[:, :2]
    predict = jax.jit(system.predict, static_argnums=2)
    # Turned off its way, in world units: where it was not and would not have been.
    steps = np.array([0, 0, 1, 2, 3, 4]).reshape(1, 6, 1, 1)
    xy = batch[schema.STATE][:, 1:2, :, :2] * (1 - steps / 4) - 0.2 * steps / 4
    edited = batch[schema.STATE].at[:, 2:, :, :2].set(xy[:, 2:])
    for states in (batch[schema.STATE], edited):
        labels = {schema.STATE: states, schema.PRESENT: batch[schema.PRESENT]}
        video = predict(state.params, context, 4, KEY, labels).video
        points = np.concatenate([states[:, -1, 0, :2], np.full((4, 1), 0.2)], -1)
        wanted, _ = geometry.project(points, 32, 32)
        found = np.stack([centroid(frame) for frame in video[:, -1]])
        assert np.linalg.norm(found - wanted, axis=-1).max() < 1.5
    true = np.stack([centroid(frame) for frame in to_float(batch[schema.VIDEO])[:, -1]])
    assert np.linalg.norm(wanted - true, axis=-1).max() > 5
