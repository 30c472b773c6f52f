"""The temporal model: what may depend on what, and how a step is composed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_vidpred.models.flow_warp import FlowWarp, Told

B, K, H, W, C = 2, 5, 6, 5, 3
OPTIONS = {
    "latent_channels": C,
    "features": 8,
    "num_blocks": 1,
    "head_features": 6,
    "num_slots": 2,
}
NET = FlowWarp(**OPTIONS, reach=2)


def rolled(variables, latents, use_truth, net=NET):
    return net.apply(variables, latents, use_truth)


run = jax.jit(rolled)


@pytest.fixture(scope="module")
def start():
    shape = (1, 1, H, W, C)
    key = jax.random.key(0, impl="rbg")  # compiles five times faster
    return jax.jit(NET.init)(key, jnp.zeros(shape), jnp.ones((1, 1), bool))


@pytest.fixture(scope="module")
def trained(start):
    """Parameters with no zeros left, so that every head says something."""
    leaves, tree = jax.tree.flatten(start)
    rng = np.random.default_rng(1)
    noisy = [leaf + jnp.float32(0.1 * rng.normal(size=leaf.shape)) for leaf in leaves]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture(scope="module")
def latents():
    values = np.random.default_rng(0).normal(size=(B, K, H, W, C))
    return jnp.asarray(values, jnp.float32)


ALL = jnp.ones((B, K), bool)
CONTEXT = 3
PREDICTING = ALL & (jnp.arange(K) < CONTEXT)[None]


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_starts_as_a_copy_with_no_motion(start, latents):
    rollout, _, _ = run(start, latents, ALL)
    assert not np.any(rollout.flow) and not np.any(rollout.residual)
    np.testing.assert_array_equal(rollout.visible_logit, np.full((B, K, H, W, 1), 4.0))
    np.testing.assert_allclose(rollout.warped, latents, atol=1e-6)
    np.testing.assert_allclose(
        rollout.latent, latents / (1 + np.exp(-4.0)), rtol=1e-5, atol=1e-6
    )


def test_next_latent_is_composed_of_what_the_heads_say(trained, latents):
    rollout, _, _ = run(trained, latents, ALL)
    assert np.any(np.abs(rollout.flow) > 0.01) and np.any(rollout.residual)
    visible = 1 / (1 + np.exp(-np.asarray(rollout.visible_logit)))
    composed = visible * rollout.warped + rollout.residual
    np.testing.assert_allclose(rollout.latent, composed, rtol=1e-5, atol=1e-6)
    warped = NET.apply(trained, latents, rollout.flow, method="warp")
    np.testing.assert_allclose(rollout.warped, warped, atol=1e-6)
    flow = NET.apply(trained, rollout.hidden, method="flow")
    np.testing.assert_allclose(rollout.flow, flow, atol=1e-6)


def test_no_output_depends_on_a_later_input(trained, latents):
    @jax.jit
    @jax.grad
    def by_input(latents, use_truth, chosen):
        outputs = rolled(trained, latents, use_truth)
        parts = [jnp.sin(p).reshape(B, K, -1) for p in jax.tree.leaves(outputs)]
        return sum(p.sum((0, 2)) for p in parts) @ chosen

    for use_truth in (ALL, PREDICTING):
        gradients = [by_input(latents, use_truth, chosen) for chosen in jnp.eye(K)]
        depends = np.any(np.array(gradients), axis=(1, 3, 4, 5))  # [output, input]
        seen = np.tril(np.ones((K, K), bool)) & np.asarray(use_truth)[0]
        np.testing.assert_array_equal(depends, seen)


def test_a_step_that_predicts_is_fed_the_prediction_before_it(trained, latents):
    rollout, collision, objects = run(trained, latents, PREDICTING)
    lies = jnp.where(PREDICTING[:, :, None, None, None], latents, jnp.nan)
    again = run(trained, lies, PREDICTING)
    assert_trees_close(again, (rollout, collision, objects), rtol=0, atol=0)
    fed = latents.at[:, CONTEXT:].set(rollout.latent[:, CONTEXT - 1 : -1])
    assert_trees_close(run(trained, fed, ALL), again, atol=1e-5)


def test_prediction_starts_from_the_context_alone(trained, latents):
    # The last context frame enters the state once: no pause before the roll-out.
    context, _, _ = run(trained, latents[:, :CONTEXT], ALL[:, :CONTEXT])
    longer, _, _ = run(trained, latents, PREDICTING)
    head = jax.tree.map(lambda a: a[:, :CONTEXT], longer)
    assert_trees_close(head, context, atol=1e-5)


def test_truth_and_prediction_mix_within_a_batch(trained, latents):
    mixed = ALL.at[0].set(PREDICTING[0])
    rollout, _, _ = run(trained, latents, mixed)
    predicting, truth = (run(trained, latents, u)[0] for u in (PREDICTING, ALL))
    np.testing.assert_allclose(rollout.latent[0], predicting.latent[0], atol=1e-5)
    np.testing.assert_allclose(rollout.latent[1], truth.latent[1], atol=1e-5)


def test_scan_equals_a_loop_of_steps(trained, latents):
    rollout, _, _ = run(trained, latents, PREDICTING)
    step = jax.jit(
        lambda c, x: NET.apply(trained, c, (*x, Told()), method=FlowWarp._step)
    )
    zeros = jnp.zeros((B, H, W, OPTIONS["features"]))
    carry = ((zeros, zeros), latents[:, 0], latents[:, 0])
    for k in range(K):
        fed = latents[:, k] if k < CONTEXT else carry[2]
        carry, output = step(carry, (latents[:, k], PREDICTING[:, k]))
        # The next step sees the change since this one.
        np.testing.assert_array_equal(carry[1], fed)
        at_k = jax.tree.map(lambda a, k=k: a[:, k], rollout)
        assert_trees_close(output, at_k, atol=1e-5)


def test_trunk_on_true_latents_does_not_know_the_flow_head(trained, latents):
    # Test-time training rests on it: hidden states are computed once.
    other = {**trained["params"]}
    other["flow_head"] = jax.tree.map(lambda p: p + 0.3, other["flow_head"])
    before, _, _ = run(trained, latents, ALL)
    after, _, _ = run({"params": other}, latents, ALL)
    np.testing.assert_array_equal(before.hidden, after.hidden)
    assert np.any(before.flow != after.flow)


def test_reach_is_a_matter_of_speed(trained, latents):
    near, _, _ = run(trained, latents, PREDICTING)
    assert np.abs(near.flow).max() < 2
    general, _, _ = rolled(trained, latents, PREDICTING, FlowWarp(**OPTIONS, reach=0))
    assert_trees_close(general, near, atol=1e-4)


def test_shapes_of_the_heads(trained, latents):
    rollout, collision, objects = run(trained, latents, ALL)
    assert collision.shape == (B, K)
    assert objects.present_logit.shape == (B, K, 2)
    assert objects.state.shape == (B, K, 2, 4)
    assert rollout.flow.shape == (B, K, H, W, 2)


def test_collision_starts_rare(start, latents):
    _, collision, _ = run(start, latents, ALL)
    probability = 1 / (1 + np.exp(-np.asarray(collision)))
    assert (probability < 0.3).all()
    assert (probability > 0.02).all()


def test_a_collision_anywhere_is_a_collision(start):
    # Whatever the random head makes of it: the same event elsewhere is the same event.
    def logit(row, column):
        hidden = jnp.zeros((1, 1, 12, 12, 8)).at[0, 0, row, column].set(3.0)
        return NET.apply(start, hidden, method="collision_logit")[0, 0]

    np.testing.assert_allclose(logit(4, 4), logit(6, 7), rtol=1e-5)


@pytest.mark.slow
def test_learns_which_way_a_pattern_drifts():
    # Smooth noise that moves one cell to the right in each frame and wraps around.
    noise = np.random.default_rng(3).normal(size=(8, 8, C))
    pattern = sum(np.roll(noise, (i, j), (0, 1)) for i, j in np.ndindex(2, 2)) / 2
    frames = [np.roll(pattern, k, axis=1) for k in range(6)]
    video = jnp.float32(np.stack([frames, [f[::-1] for f in frames]]))
    inputs, following = video[:, :-1], video[:, 1:]
    use_truth = jnp.ones(inputs.shape[:2], bool)
    key = jax.random.key(0, impl="rbg")
    params = jax.jit(NET.init)(key, inputs, use_truth)
    optimizer = optax.adam(1e-2)

    def step(carry, _):
        params, opt_state = carry

        def loss(params):
            rollout = NET.apply(params, inputs, use_truth, method="rollout")
            return jnp.abs(rollout.warped - following).mean(), rollout.flow

        gradient, flow = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), flow

    start = params, optimizer.init(params)
    flow = jax.jit(lambda c: jax.lax.scan(step, c, length=100))(start)[1][-1]
    # Backward flow of a motion to the right: it points to the left. From frame 1 on
    # the change of the latent is seen; at the left border nothing can be found.
    seen = np.median(flow[:, 1:, 1:-1, 2:-1], axis=(0, 1, 2, 3))
    assert seen[0] < -0.7 and abs(seen[1]) < 0.2
