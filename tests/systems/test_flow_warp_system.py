"""Phases 2 and 3: which terms are computed, what is trained, how a clip is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred import systems
from jax_vidpred.data import schema
from jax_vidpred.metrics import frame
from jax_vidpred.ops.image import to_float

NEEDS = {
    "latent": (),
    "flow": (schema.FLOW,),
    "visible": (schema.VISIBLE,),
    "warped": (),
    "decoded": (),
    "residual": (schema.FLOW, schema.VISIBLE),
    "collision": (schema.COLLISION,),
    "state": (schema.STATE, schema.PRESENT),
}


def some_state(system, batch):
    """A state of the right shapes, without compiling the initialisation."""
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def scalars_of(system, batch):
    """Names of the scalars of a training step, traced only."""
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    return set(jax.eval_shape(system.train_step, state, batch, jax.random.key(0))[1])


@pytest.mark.parametrize("term", NEEDS)
def test_a_term_without_weight_is_not_computed(make_flow_warp, tiny, term, monkeypatch):
    system = make_flow_warp({term: 1.0})
    assert system.required_keys == (schema.VIDEO, *NEEDS[term])
    if term not in ("warped", "decoded"):
        monkeypatch.setattr(system.vae, "decode", None)
    batch = {key: tiny.batch()[key] for key in system.required_keys}
    names = scalars_of(system, batch)
    assert {name for name in names if name.startswith("loss_")} == {f"loss_{term}"}


def test_uncertainties_belong_to_the_terms_that_are_on(make_flow_warp, tiny):
    system = make_flow_warp({"latent": 1.0, "flow": 1.0}, balance="uncertainty")
    state = jax.eval_shape(system.init, jax.random.key(0), tiny.batch())
    assert set(state.params["balance"]) == {"latent", "flow"}
    assert {"loss_latent", "loss_flow"} <= scalars_of(system, tiny.batch())


def changed(before, after):
    """Which leaves differ, by path."""
    differs = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)
    paths = jax.tree_util.tree_leaves_with_path(differs)
    return {jax.tree_util.keystr(path): value for path, value in paths}


def test_phase_2_trains_the_temporal_model_alone(make_flow_warp, tiny):
    system, batch = make_flow_warp(), tiny.batch()
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    assert set(state.params) == {"temporal"} and set(state.frozen) == {"vae"}

    def step(state):
        after, _ = system.train_step(state, batch, jax.random.key(0))
        kept = jax.tree.map(lambda a, b: a is b, state.frozen, after.frozen)
        assert all(jax.tree.leaves(kept))
        return after

    assert jax.eval_shape(step, state).params.keys() == {"temporal"}


@pytest.mark.slow
def test_joint_phase_trains_all_but_the_statistics_of_the_latents(
    make_flow_warp, temporal_stage, tiny
):
    stages, batch = {"temporal": temporal_stage}, tiny.batch()
    system = make_flow_warp(stages=stages, train_vae=True, vae_loss_weight=0.5)
    before = some_state(system, batch).replace(params=dict(temporal_stage.params))
    after, scalars = jax.jit(system.train_step)(before, batch, jax.random.key(1))
    assert not after.frozen
    moves = changed(before.params, after.params)
    still = {name for name, value in moves.items() if not value}
    assert still == {"['vae']['latent_mean']", "['vae']['latent_variance']"}
    expected = sum(tiny.weights[n] * scalars[f"loss_{n}"] for n in tiny.weights)
    expected += 0.5 * (scalars["vae_l1"] + 0.1 * scalars["vae_kl"])
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-5)


def test_next_phase_starts_where_the_last_one_ended(
    make_flow_warp, temporal_stage, tiny
):
    for train_vae, names in ((False, {"temporal"}), (True, {"temporal", "vae"})):
        system = make_flow_warp(
            stages={"temporal": temporal_stage}, train_vae=train_vae
        )
        params = jax.jit(system.init)(jax.random.key(0), tiny.batch()).params
        assert set(params) == names
        for name in names:
            assert not any(changed(temporal_stage.params[name], params[name]).values())


# --- roll-out of a training clip ----------------------------------------------------


def draw(system, ratio, seed, t=10):
    rng = jax.random.key(seed)
    use_truth, steps = system._draw_roll_out(
        rng, jnp.arange(4), t - 1, jnp.float32(ratio)
    )
    return np.asarray(use_truth), np.asarray(steps)


def test_truth_is_fed_in_the_context_and_by_the_ratio(make_flow_warp):
    system = make_flow_warp(num_context=3, num_future=7, min_future=2)
    never, _ = draw(system, 0.0, 0)
    np.testing.assert_array_equal(never, np.broadcast_to(np.arange(9) < 3, (4, 9)))
    always, _ = draw(system, 1.0, 0)
    assert always.all()
    some = np.stack([draw(system, 0.7, seed)[0] for seed in range(40)])
    assert some[..., :3].all()
    # 40 x 4 x 6 coins: standard error 0.015.
    assert some[..., 3:].mean() == pytest.approx(0.7, abs=0.06)


def test_number_of_predicted_frames_covers_its_range(make_flow_warp):
    system = make_flow_warp(num_context=3, num_future=7, min_future=2)
    lengths = set()
    for seed in range(60):
        steps = draw(system, 0.0, seed)[1]
        assert (steps == steps[:1]).all()
        length = int(steps[0].sum())
        np.testing.assert_array_equal(steps[0], np.arange(9) < length)
        lengths.add(length)
    # Step 2 speaks of the first future frame.
    assert lengths == {2 + horizon for horizon in range(2, 8)}


def test_adaptive_teacher_forcing_reacts_to_the_validation_psnr(make_flow_warp, tiny):
    forcing = {"kind": "adaptive", "start": 0.8, "change": 0.1}
    system = make_flow_warp({"latent": 1.0}, teacher_forcing=forcing)
    shapes = jax.eval_shape(system.init, jax.random.key(0), tiny.batch())
    assert set(shapes.extra) == {"teacher_forcing_ratio", "best_psnr"}
    extra = {"teacher_forcing_ratio": jnp.float32(0.8), "best_psnr": -jnp.inf}
    state = some_state(system, tiny.batch()).replace(extra=extra)
    ratios = []
    for psnr in (20.0, 21.0, 19.0, 20.5, 22.0):  # best so far: 20, 21, 21, 21, 22
        state = system.after_evaluation(state, {"psnr": psnr})
        ratios.append(float(system.teacher_forcing.ratio(state)))
    np.testing.assert_allclose(ratios, [0.7, 0.6, 0.7, 0.8, 0.7], rtol=1e-5)


def test_scheduled_teacher_forcing_follows_the_step(make_flow_warp, tiny):
    system = make_flow_warp({"latent": 1.0})  # linear over 10 steps
    state = some_state(system, tiny.batch()).replace(step=jnp.int32(4))
    assert float(system.teacher_forcing.ratio(state)) == pytest.approx(0.6)
    assert system.after_evaluation(state, {"psnr": 1.0}) is state


# --- evaluation and prediction ------------------------------------------------------


def test_evaluation_scores_what_predict_gives(temporal_stage, tiny):
    system, batch = temporal_stage.system, tiny.batch()
    state = some_state(system, batch)
    temporal = {"temporal": temporal_stage.params["temporal"]}
    state = state.replace(params=temporal, frozen=system.frozen)
    metrics = jax.jit(system.eval_step)(state, batch, jax.random.key(7))
    assert {value.shape for value in metrics.values()} == {(2,)}
    context, future = jnp.split(to_float(batch[schema.VIDEO]), [tiny.context], 1)
    predict = jax.jit(system.predict, static_argnums=2)
    rng = jax.random.key(0)
    prediction = predict(temporal_stage.params, context, tiny.future, rng)
    assert prediction.video.min() >= 0 and prediction.video.max() <= 1
    expected = frame.psnr(prediction.video, future).mean(1)
    np.testing.assert_allclose(metrics["psnr"], expected, rtol=1e-5)
    copied = jnp.broadcast_to(context[:, -1:], future.shape)
    expected = frame.psnr(copied, future).mean(1)
    np.testing.assert_allclose(metrics["psnr_copy_last"], expected, rtol=1e-5)
    moving = np.linalg.norm(batch[schema.FLOW], axis=-1) > 0.05
    lengths = np.linalg.norm(batch[schema.FLOW], axis=-1)
    zero = [lengths[k][moving[k]].mean() for k in (0, 1)]
    np.testing.assert_allclose(metrics["endpoint_error_zero"], zero, rtol=2e-3)
    off = np.linalg.norm(prediction.aux["flow"] - batch[schema.FLOW], axis=-1)
    error = [off[k][moving[k]].mean() for k in (0, 1)]
    np.testing.assert_allclose(metrics["endpoint_error_flow"], error, rtol=2e-3)


@pytest.mark.parametrize("num_future", [1, 4])
def test_prediction_has_the_promised_shapes(temporal_stage, tiny, num_future):
    context = to_float(tiny.batch()[schema.VIDEO])[:, : tiny.context]
    prediction = jax.eval_shape(
        lambda p, c: temporal_stage.system.predict(p, c, num_future, None),
        temporal_stage.params,
        context,
    )
    assert prediction.video.shape == (2, num_future, 16, 16, 3)
    steps = tiny.context - 1 + num_future
    assert {name: value.shape for name, value in prediction.aux.items()} == {
        "flow": (2, steps, 4, 4, 2),
        "visible": (2, steps, 4, 4, 1),
        "collision_probability": (2, steps),
        "object_state": (2, steps, 2, 4),
        "object_probability": (2, steps, 2),
    }


@pytest.mark.slow
def test_told_the_truth_instead_of_predicting(temporal_stage, tiny):
    """Each case differs from the prediction by what it was told, and by that alone."""
    system, params = temporal_stage.system, temporal_stage.params
    batch = tiny.batch()
    video = to_float(batch[schema.VIDEO])
    context = video[:, : tiny.context]
    plain = system.predict(params, context, 2, None)
    told = jax.jit(system.predict_told, static_argnums=3)

    def predict_told(**truth):
        given = {schema.FLOW: plain.aux["flow"], schema.VISIBLE: plain.aux["visible"]}
        return told(params, video, {**given, **truth}, tiny.context)

    same = predict_told()
    assert set(same) == {"true flow", "true visibility", "true latent", "no residual"}
    # Told what it would have predicted itself, it predicts the same.
    for name in ("true flow", "true visibility"):
        np.testing.assert_allclose(same[name], plain.video, atol=1e-5)
    # From the true latents the first frame is the same, the second is not.
    np.testing.assert_allclose(same["true latent"][:, 0], plain.video[:, 0], atol=1e-5)
    assert np.abs(same["true latent"][:, 1] - plain.video[:, 1]).max() > 1e-4
    assert np.abs(same["no residual"] - plain.video).max() > 1e-4
    # The future is seen through the true latents alone, and not through the last one.
    video = video.at[:, -1].set(0.5)
    np.testing.assert_array_equal(predict_told()["true latent"], same["true latent"])
    other = predict_told(flow=batch[schema.FLOW], visible=batch[schema.VISIBLE])
    assert np.abs(other["true flow"] - same["true flow"]).max() > 1e-4
    np.testing.assert_array_equal(other["no residual"], same["no residual"])


# --- configuration ------------------------------------------------------------------


def test_bad_options_are_one_line(make_flow_warp):
    for changes, message in [
        ({"min_future": 3}, "min_future=3 must lie in 1..num_future=2"),
        ({"balance": "magic"}, "balance 'magic' is unknown; use fixed or uncertainty"),
        ({"weights": {"latnet": 1.0}}, "wanted .*'latent'.* switches a term off"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            make_flow_warp(**changes)
        assert "\n" not in str(error.value)


def config(**changes):
    sections = {
        "system": {"name": "vae"},
        "model": {"features": 16},
        "losses": {"l1": 1.0, "kl": 0.1, "annealing": {}},
        "optim": {"learning_rate": 1e-3},
        "ema": {"decay": None},
        "train": {"num_steps": 10, "log_every": 1, "accumulate": 1},
    }
    return sections | changes


def test_systems_are_made_by_name():
    assert type(systems.create(config(), {})).__name__ == "VAESystem"
    for changes, message in [
        ({"system": {"name": "vea"}}, "'vea' is unknown; use one of .*'vae'"),
        ({"model": {"featurs": 16}}, "config of system 'vae': .*'featurs'"),
        ({"system": {"name": "vae", "speed": 1}}, "config of system 'vae': .*'speed'"),
    ]:
        with pytest.raises(ValueError, match=message):
            systems.create(config(**changes), {})
