"""Test-time training: what it may change, what it may see, and that it never harms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_vidpred.ops.image import to_float
from jax_vidpred.systems import ttt
from jax_vidpred.train.protocol import Prediction

# --- the algorithm, on a system of two numbers ---------------------------------------


class Drift:
    """Predicts that the mean brightness changes by `head["speed"]` per frame."""

    adaptable = ("model", "head")

    def adaptation_data(self, params, context):
        level = context.mean((2, 3, 4)) * params["model"]["trunk"]
        return {"now": level[:, :-1], "next": level[:, 1:]}

    def adaptation_loss(self, params, data):
        head = params["model"]["head"]
        return jnp.abs(data["now"] + head["speed"] - data["next"]) + head["other"] ** 2

    def predict(self, params, context, num_future, rng):
        del rng
        steps = jnp.arange(1.0, num_future + 1).reshape(1, num_future, 1, 1, 1)
        video = context[:, -1:] + params["model"]["head"]["speed"] * steps
        return Prediction(video=video)


PARAMS = {
    "model": {"trunk": jnp.float32(1.0), "head": {"speed": 0.0, "other": 0.1}},
    "vae": jnp.ones(3),
}
PARAMS = jax.tree.map(jnp.float32, PARAMS)
SPEEDS = np.array([0.02, -0.015, 0.0])
T = 8


def one_colour(levels):
    """Videos [b, t, 2, 2, 3] of one brightness per frame."""
    levels = np.asarray(levels)[..., None, None, None]
    return jnp.float32(np.broadcast_to(levels, (*levels.shape[:2], 2, 2, 3)))


def drifting(speeds=SPEEDS, t=T):
    """Videos that become brighter or darker."""
    return one_colour(0.5 + speeds[:, None] * np.arange(t))


def accelerating():
    """A video whose brightness changes faster and faster: every pair matters."""
    return one_colour(0.3 + 0.02 * np.arange(T)[None] * np.linspace(0.2, 1, T)[None])


def adapt(context, params=PARAMS, **options):
    options = {"num_steps": 12, "learning_rate": 2e-3} | options
    function = jax.jit(lambda p, c: ttt.adapt(Drift(), p, c, **options))
    return function(params, context)


def by_hand(context, masks, held_out, learning_rate, min_gain=0.02):
    """The same inner loop, one video after the other, in plain Python."""
    system, optimizer = Drift(), optax.adam(learning_rate)
    found = []
    for video in range(len(context)):
        past = context[video : video + 1, :-held_out]
        data = jax.tree.map(lambda a: a[0], system.adaptation_data(PARAMS, past))

        def terms(head, data=data):
            model = {**PARAMS["model"], "head": head}
            return system.adaptation_loss({"model": model}, data)

        def error(head, past=past, video=video):
            # Brightness goes on linearly from the last frame that was trained on.
            steps = np.arange(1, held_out + 1)
            expected = float(past[0, -1, 0, 0, 0]) + float(head["speed"]) * steps
            return np.mean((expected - context[video, -held_out:, 0, 0, 0]) ** 2)

        start = head = PARAMS["model"]["head"]
        opt_state = optimizer.init(head)
        for mask in masks:
            gradient = jax.grad(
                lambda h, mask=mask: jnp.sum(terms(h) * mask) / mask.sum()
            )(head)
            updates, opt_state = optimizer.update(gradient, opt_state)
            head = optax.apply_updates(head, updates)
        before, after = error(start), error(head)
        kept = after < (1 - min_gain) * before
        found.append((head, before, after) if kept else (start, before, before))
    return found


def assert_same_as_by_hand(result, expected):
    for video, (head, before, after) in enumerate(expected):
        adapted = result.params["model"]["head"]
        for name in head:
            np.testing.assert_allclose(adapted[name][video], head[name], atol=1e-6)
        np.testing.assert_allclose(result.held_out_before[video], before, atol=1e-7)
        np.testing.assert_allclose(result.held_out_after[video], after, atol=1e-7)
        assert bool(result.kept[video]) == (after < before)


def test_offline_equals_a_plain_loop():
    context = jnp.concatenate([drifting(), accelerating()])
    masks = np.ones((12, 5))  # 6 of 8 frames are trained on: 5 pairs
    result = adapt(context)
    assert_same_as_by_hand(result, by_hand(context, masks, 2, 2e-3))
    speed = result.params["model"]["head"]["speed"]
    assert np.all(np.abs(speed[:3] - SPEEDS) < 0.005)


def test_online_takes_its_steps_for_each_arriving_frame_on_a_window():
    # Pairs 0..4 arrive one by one; a window of 3, 2 steps for each.
    windows = [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    masks = np.zeros((10, 5))
    for k, window in enumerate(windows):
        masks[2 * k : 2 * k + 2, window] = 1
    result = adapt(accelerating(), mode="online", num_steps=2, window=3)
    assert_same_as_by_hand(result, by_hand(accelerating(), masks, 2, 2e-3))


def test_online_window_that_covers_all_sees_all_that_has_arrived():
    masks = np.tril(np.ones((5, 5)))
    result = adapt(accelerating(), mode="online", num_steps=1, window=7)
    assert_same_as_by_hand(result, by_hand(accelerating(), masks, 2, 2e-3))


def test_only_the_named_subtree_changes_and_every_video_gets_its_own():
    result = adapt(drifting())
    assert jax.tree.map(jnp.shape, result.params) == {
        "model": {"trunk": (), "head": {"speed": (3,), "other": (3,)}},
        "vae": (3,),
    }
    np.testing.assert_array_equal(result.params["vae"], PARAMS["vae"])
    assert result.params["model"]["trunk"] == PARAMS["model"]["trunk"]
    assert len(np.unique(result.params["model"]["head"]["speed"])) == 3


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_video_adapts_alone_as_it_does_in_a_batch(backend, monkeypatch):
    together = adapt(drifting())
    monkeypatch.setattr(jax, "default_backend", lambda: backend)  # map, or vmap
    for video in range(3):
        alone = adapt(drifting()[video : video + 1])
        for name, values in alone.params["model"]["head"].items():
            same = together.params["model"]["head"][name][video]
            np.testing.assert_allclose(values[0], same, atol=1e-6)


def test_adapting_never_harms_on_the_held_out_frames():
    # What was learnt from the first frames is wrong for the last ones.
    context = drifting(np.array([0.02]))
    turned = context.at[:, -2:].set(context[:, -3:-2])
    result = adapt(turned)
    assert not result.kept[0]
    assert result.held_out_after[0] == result.held_out_before[0]
    assert result.params["model"]["head"]["speed"][0] == 0


def test_a_gain_that_is_too_small_is_chance():
    assert adapt(drifting(), min_gain=0.02).kept.tolist() == [True, True, False]
    assert not adapt(drifting(), min_gain=1.0).kept.any()


def test_no_steps_leave_the_parameters():
    result = adapt(drifting(), num_steps=0)
    for name, value in PARAMS["model"]["head"].items():
        np.testing.assert_array_equal(
            result.params["model"]["head"][name], np.full(3, value)
        )
    np.testing.assert_array_equal(result.held_out_before, result.held_out_after)
    assert not result.kept.any()


def test_each_video_is_predicted_with_its_own_parameters():
    adapted = adapt(drifting())
    predicted = ttt.predict_adapted(
        Drift(), adapted.params, drifting(), 3, jax.random.key(0)
    )
    speed = np.asarray(adapted.params["model"]["head"]["speed"])
    last = 0.5 + SPEEDS * (T - 1)
    expected = last[:, None] + speed[:, None] * np.arange(1, 4)
    np.testing.assert_allclose(predicted.video[:, :, 0, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options, frames, message",
    [
        ({"mode": "sometimes"}, 8, "'sometimes' is unknown; use offline or online"),
        ({}, 3, "2 frames out of a context of 3; give at least 4"),
        ({"held_out": 4}, 5, "4 frames out of a context of 5; give at least 6"),
    ],
)
def test_errors_are_one_line(options, frames, message):
    with pytest.raises(ValueError, match=message) as error:
        adapt(drifting(t=frames), **options)
    assert "\n" not in str(error.value)


# --- the flow-warp system ------------------------------------------------------------


@pytest.fixture(scope="module")
def flow_warp(temporal_stage):
    rng = np.random.default_rng(5)
    video = jnp.asarray(rng.integers(0, 256, (2, 5, 16, 16, 3)), jnp.uint8)
    context = to_float(video)
    system, params = temporal_stage.system, temporal_stage.params
    data = jax.jit(system.adaptation_data)(params, context)
    return system, params, context, data


OTHER_PAIRS = jnp.arange(1.0, 5.0)  # cotangents that tell the pairs apart


@pytest.fixture(scope="module")
def hoisted(flow_warp):
    """Parameters other than those that the data was made with, losses and gradient."""
    system, params, _, data = flow_warp
    head = jax.tree.map(lambda p: 1.3 * p + 0.05, params["temporal"]["flow_head"])
    temporal = params["temporal"] | {"flow_head": head}
    one = jax.tree.map(lambda a: a[0], data)

    def loss(temporal):
        return system.adaptation_loss(params | {"temporal": temporal}, one)

    losses, vjp = jax.vjp(jax.jit(loss), temporal)
    return temporal, losses, vjp(OTHER_PAIRS)[0]


def test_gradient_reaches_exactly_the_adapted_leaves(flow_warp, hoisted):
    assert flow_warp[0].adaptable == ("temporal", "flow_head")
    for name, subtree in hoisted[2].items():
        for leaf in jax.tree.leaves(subtree):
            assert bool(jnp.any(leaf)) == (name == "flow_head"), name


def test_hidden_states_computed_once_equal_a_full_recomputation(flow_warp, hoisted):
    system, params, context, _ = flow_warp
    temporal, losses, gradient = hoisted

    def full(flow_head):
        net = {"params": temporal | {"flow_head": flow_head}}
        latents = system.vae.encode(params["vae"], context[:1])[:, :-1]
        use_truth = jnp.ones(latents.shape[:2], bool)
        rollout = system.net.apply(net, latents, use_truth, method="rollout")
        frames = system.vae.decode(params["vae"], rollout.warped)
        return jnp.abs(frames - context[:1, 1:]).mean((2, 3, 4))[0]

    expected, vjp = jax.vjp(jax.jit(full), temporal["flow_head"])
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        gradient["flow_head"],
        vjp(OTHER_PAIRS)[0],
    )


@pytest.mark.slow
def test_adapted_prediction(flow_warp):
    system, params, context, _ = flow_warp

    @jax.jit
    def run(params, context):
        adapted = ttt.adapt(
            system, params, context, num_steps=3, learning_rate=1e-3, min_gain=-1.0
        )
        predicted = ttt.predict_adapted(
            system, adapted.params, context, 2, jax.random.key(0)
        )
        return adapted, predicted, system.predict(params, context, 2, jax.random.key(0))

    adapted, predicted, plain = run(params, context)
    assert predicted.video.shape == plain.video.shape
    for video in range(2):
        changed = bool(jnp.any(predicted.video[video] != plain.video[video]))
        assert changed == bool(adapted.kept[video])
    assert adapted.kept.any()
    # In another order each video gets the same: nothing is carried over.
    again = run(params, context[::-1])[1]
    np.testing.assert_allclose(again.video[::-1], predicted.video, atol=1e-4)
