"""The CVAE's networks: one loop over time, what a draw depends on, presets, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models.cvae import CVAE
from jax_vidpred.models.vae import LOGVAR_RANGE

B, T, SIZE, GRID, CHANNELS = 2, 4, 8, 2, 3
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, B)


def small(**changes):
    options = {"features": 16, "label_features": 8, "num_blocks": 1}
    return CVAE(**options | {"latent_channels": 2} | changes)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    frames = jnp.float32(rng.uniform(size=(B, T, SIZE, SIZE, 3)))
    labels = jnp.float32(rng.normal(size=(B, T - 1, GRID, GRID, CHANNELS)))
    coins = jnp.asarray([[True, False, True], [True, False, False]])
    return frames, labels, coins


def trained(net, *arguments):
    """Parameters as if trained: none is zero, so that every part has its effect."""
    shapes = jax.eval_shape(net.init, KEY, *arguments)
    rng = np.random.default_rng(1)

    def draw(leaf):
        scale = 0.3 if leaf.ndim == 1 else 1.5 * np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.float32(scale * rng.normal(size=leaf.shape))

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module", params=["blend", "reference"])
def net(request):
    cvae = small(preset=request.param)
    return cvae, trained(cvae, *inputs(), KEYS)


@pytest.fixture(scope="module")
def blend():
    cvae = small()
    return cvae, trained(cvae, *inputs(), KEYS)


def test_the_roll_out_is_a_loop_over_single_steps(net):
    cvae, variables = net
    frames, labels, coins = inputs()
    rollout = jax.jit(cvae.apply)(variables, frames, labels, coins, KEYS)
    assert rollout.frames.shape == (B, T - 1, SIZE, SIZE, 3)
    assert rollout.mean.shape == rollout.logvar.shape == (B, T - 1, GRID, GRID, 2)

    @jax.jit
    def step(frame, true, label, noise):
        def parts(module):
            encoded = module.label_encoder(label)
            posterior = module.posterior(true, encoded)
            drawn = posterior.mean + jnp.exp(posterior.logvar / 2) * noise
            return module.next_frame(frame, encoded, drawn), posterior

        return cvae.apply(variables, method=parts)

    predicted = jnp.zeros_like(frames[:, 0])
    for k in range(T - 1):
        noise = jnp.stack(
            [
                jax.random.normal(jax.random.fold_in(key, k), rollout.mean.shape[2:])
                for key in KEYS
            ]
        )
        chosen = coins[:, k, None, None, None]
        frame = jnp.where(chosen, frames[:, k], predicted)
        predicted, posterior = step(frame, frames[:, k + 1], labels[:, k], noise)
        np.testing.assert_allclose(rollout.frames[:, k], predicted, atol=1e-5)
        np.testing.assert_allclose(rollout.mean[:, k], posterior.mean, atol=1e-5)
        np.testing.assert_allclose(rollout.logvar[:, k], posterior.logvar, atol=1e-5)


def test_other_coins_need_no_other_program(blend):
    cvae, variables = blend
    frames, labels, coins = inputs()
    run = jax.jit(cvae.apply)
    some = run(variables, frames, labels, coins, KEYS).frames
    fed = run(variables, frames, labels, coins.at[1, 1].set(True), KEYS).frames
    assert run._cache_size() == 1
    np.testing.assert_array_equal(fed[0], some[0])
    np.testing.assert_array_equal(fed[1, 0], some[1, 0])
    assert np.abs(fed[1, 1] - some[1, 1]).max() > 1e-3


def test_predictions_draw_from_the_standard_normal(blend):
    cvae, variables = blend
    labels = jnp.zeros((1, 40, 8, 8, CHANNELS))

    def draws(module):
        object.__setattr__(module, "_roll_out", lambda frames, label, drawn, fed: drawn)
        return module.generate(jnp.zeros((1, 32, 32, 3)), labels, KEYS[:1])

    drawn = jax.jit(lambda: cvae.apply(variables, method=draws))()
    assert drawn.shape == (1, 40, 8, 8, 2)
    # 5120 draws: standard errors 0.014 and 0.010.
    assert float(drawn.mean()) == pytest.approx(0, abs=0.06)
    assert float(drawn.std()) == pytest.approx(1, abs=0.04)


def test_a_long_prediction_begins_as_a_short_one(blend):
    cvae, variables = blend
    frames, labels, _ = inputs()

    @jax.jit
    def generate(labels, keys=KEYS):
        return cvae.apply(variables, frames[:, 0], labels, keys, method="generate")

    long = generate(labels)
    np.testing.assert_allclose(generate(labels[:, :2]), long[:, :2], atol=1e-6)
    other = generate(labels, KEYS[::-1])
    assert np.abs(other - long).max((1, 2, 3, 4)).min() > 1e-3


def test_each_frame_is_predicted_from_labels_up_to_its_own(blend):
    cvae, variables = blend
    frames, labels, _ = inputs()

    @jax.jit
    def change(k):
        both = (
            cvae.apply(variables, frames[:, 0], given, KEYS, method="generate")
            for given in (labels, labels.at[:, k].add(1.0))
        )
        return jnp.abs(next(both) - next(both)).max((0, 2, 3, 4))

    for k in range(T - 1):
        changed = np.asarray(change(k)) > 1e-4
        np.testing.assert_array_equal(changed, np.arange(T - 1) >= k)


def test_every_parameter_is_trained(net):
    cvae, variables = net
    frames, labels, coins = inputs()

    def loss(variables):
        rollout = cvae.apply(variables, frames, labels, coins, KEYS)
        return jnp.square(rollout.frames - frames[:, 1:]).mean()

    gradients = jax.jit(jax.grad(loss))(variables)
    still = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.any(leaf)
    }
    assert not still


def test_predictions_are_pictures_and_begin_as_copies(net):
    cvae, variables = net
    frames, labels, coins = inputs()
    run = jax.jit(cvae.apply)
    wild = jax.tree.map(lambda leaf: 5 * leaf, variables)
    extreme = run(wild, frames, labels, coins, KEYS)
    assert extreme.frames.min() >= 0 and extreme.frames.max() <= 1
    assert extreme.logvar.min() >= LOGVAR_RANGE[0]
    assert extreme.logvar.max() <= LOGVAR_RANGE[1]
    start = jax.jit(cvae.init)(KEY, frames, labels, coins, KEYS)
    change = np.abs(run(start, frames, labels, coins, KEYS).frames[:, 0] - frames[:, 0])
    copies = change.max() < 0.06
    assert copies == (cvae.preset == "blend")


def test_images_as_labels_have_the_size_of_the_frames():
    cvae = small(label_stride=4)
    frames, _, coins = inputs()
    shape = jax.eval_shape(
        lambda: cvae.init_with_output(KEY, frames, frames[:, 1:], coins, KEYS)[0]
    )
    assert shape.frames.shape == (B, T - 1, SIZE, SIZE, 3)


def test_remat_and_narrow_types_keep_the_parameters_and_nearly_the_frames(blend):
    cvae, variables = blend
    arguments = (*inputs(), KEYS)
    expected = jax.jit(cvae.apply)(variables, *arguments).frames
    again = jax.jit(small(remat=True).apply)(variables, *arguments).frames
    np.testing.assert_allclose(again, expected, atol=1e-6)
    forward = [jax.make_jaxpr(small(remat=on).apply) for on in (False, True)]
    plain, computed_again = (str(trace(variables, *arguments)) for trace in forward)
    assert "remat2[" in computed_again and "remat2[" not in plain
    narrow = jax.jit(small(dtype="bfloat16").apply)(variables, *arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("float32")}
    assert 0 < np.abs(narrow.frames - expected).max() < 0.05


@pytest.mark.parametrize(
    "changes, size, message",
    [
        ({"preset": "magic"}, 8, "'magic' is unknown; use blend or reference"),
        ({"stride": 3}, 9, "stride=3 is not a power of two of at least 2"),
        ({"stride": 1}, 8, "stride=1 is not a power of two"),
        ({}, 10, "10x10 do not divide by the stride 4 of the CVAE; use 8x8"),
        ({"dtype": "float16"}, 8, "'float16' is unknown"),
    ],
)
def test_errors_are_one_line(changes, size, message):
    frames = jnp.zeros((1, 2, size, size, 3))
    labels = jnp.zeros((1, 1, size // 4, size // 4, 1))
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(
            small(**changes).init, KEY, frames, labels, jnp.ones((1, 1), bool), KEYS[:1]
        )
    assert "\n" not in str(error.value)
