"""`generate_frames` with RIVER's arguments: shapes, ranges, steps, what is compiled."""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_vidpred
from jax_vidpred import generate
from jax_vidpred.data import schema
from jax_vidpred.generate import generate_frames
from jax_vidpred.ops import solvers
from jax_vidpred.systems.river import RiverSystem, Sampling
from jax_vidpred.systems.vae import VAESystem
from jax_vidpred.train.protocol import Stage
from jax_vidpred.train.rngs import for_step

SIZE = 16
OPTIM = {"learning_rate": 1e-2, "num_steps": 100}
FIELD = {"features": 16, "num_heads": 2, "depth": 1, "mid_depth": 1, "dropout": 0.0}


def drawn(shapes):
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.float32(scale * rng.normal(size=leaf.shape))

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def predictor():
    """What `jax_vidpred.load` gives, with parameters as if trained."""
    # Not quantised: the least change of a latent is seen in the frames.
    first = VAESystem(
        model={"latent_channels": 2, "stride": 4, "features": 16, "num_blocks": 1},
        losses={"l1": 1.0, "kl": 0.1, "annealing": {"kind": "none", "num_steps": 1}},
        optim=OPTIM,
    )
    batch = {schema.VIDEO: jnp.zeros((1, 1, SIZE, SIZE, 3), jnp.uint8)}
    net = jax.eval_shape(first.init, jax.random.key(0), batch).params["net"]
    params = {
        "net": drawn(net),
        "latent_mean": jnp.array([0.3, -0.2]),
        "latent_variance": jnp.array([0.5, 2.0]),
    }
    system = RiverSystem(
        model=FIELD,
        losses={"sigma": 1e-7},
        optim=OPTIM,
        num_context=2,
        sampling={"method": "euler", "num_steps": 1},
        stages={"vae": Stage(first, params)},
    )
    latent, ones = jnp.zeros((1, 4, 4, 2)), jnp.ones(1)
    field = jax.eval_shape(
        system.net.init,
        jax.random.key(0),
        *(latent, latent, latent, ones.astype(jnp.int32), ones),
    )["params"]
    return types.SimpleNamespace(
        system=system,
        params={"vae": params, "field": drawn(field)},
        frame_size=(SIZE, SIZE),
        label="river",
    )


def observed(b=2, n=3, seed=0):
    shape = (b, n, 3, SIZE, SIZE)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def channels_last(video):
    return (np.moveaxis(video, 2, -1) + 1) / 2


@pytest.mark.slow
def test_reconstructions_then_what_predict_gives(predictor):
    observations = observed()
    video = jax_vidpred.generate_frames(predictor, observations, num_frames=2, steps=3)
    assert video.shape == (2, 5, 3, SIZE, SIZE) and video.dtype == np.float32
    assert video.min() >= -1 and video.max() <= 1
    system, params = predictor.system, predictor.params
    context = jnp.asarray(channels_last(observations))

    @jax.jit
    def again(params, context):
        first = system.vae
        return first.decode(params["vae"], first.encode(params["vae"], context))

    np.testing.assert_allclose(
        channels_last(video[:, :3]), np.clip(again(params, context), 0, 1), atol=1e-5
    )
    future = jax.jit(system.predict, static_argnames=("num_future", "sampling"))(
        params,
        context,
        num_future=2,
        rng=for_step(0, "predict", 0),
        sampling=Sampling("rk4_38", 2),  # three points in time
    ).video
    np.testing.assert_allclose(channels_last(video[:, 3:]), future, atol=1e-5)


def test_one_observation_comes_back_once(predictor):
    video = generate_frames(predictor, observed(b=1, n=1), 1, steps=2)
    assert video.shape == (1, 2, 3, SIZE, SIZE)


def test_another_seed_is_another_future_of_the_same_program(predictor):
    generate._generate.clear_cache()
    videos = [
        generate_frames(predictor, observed(seed=data), 2, steps=3, seed=seed)
        for data, seed in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert generate._generate._cache_size() == 1
    np.testing.assert_array_equal(videos[0], videos[1])
    np.testing.assert_array_equal(videos[0][:, :3], videos[2][:, :3])
    assert np.abs(videos[0][:, 3:] - videos[2][:, 3:]).max() > 1e-3


def count_equations(jaxpr):
    count = 0
    for equation in jaxpr.eqns:
        count += 1 + sum(
            map(count_equations, jax.core.jaxprs_in_params(equation.params))
        )
    return count


def equations(predictor, num_frames, num_steps):
    """Of the program, loops counted once: what has to be compiled."""
    traced = generate._generate.trace(
        predictor.system,
        predictor.params,
        observed(),
        jax.random.key(0),
        num_frames=num_frames,
        sampling=Sampling("rk4_38", num_steps),
    )
    return count_equations(traced.jaxpr.jaxpr)


def test_the_program_grows_neither_with_frames_nor_with_steps(predictor):
    few = equations(predictor, 2, 3)
    assert few > 300
    assert equations(predictor, 20, 3) == few
    assert equations(predictor, 2, 99) == few


@pytest.mark.parametrize(
    "steps, warm_start, points", [(4, 0.0, 4), (4, 0.5, 2), (20, 0.9, 1), (10, 0.3, 7)]
)
def test_steps_are_points_in_time(predictor, monkeypatch, steps, warm_start, points):
    asked = []

    def even_times(begin, end, num_steps):
        asked.append((begin, end, num_steps + 1))
        raise ZeroDivisionError

    monkeypatch.setattr(solvers, "even_times", even_times)
    arguments = predictor, observed(), 1, steps, warm_start
    if points < 2:  # 0.9 in binary leaves 1.99... of 20
        with pytest.raises(ValueError, match="warm_start=0.9 leaves 1 points in time"):
            generate_frames(*arguments)
        return
    with pytest.raises(ZeroDivisionError):
        generate_frames(*arguments)
    assert asked == [(warm_start, 1.0, points)]


def test_past_horizon_limits_what_is_heard(predictor):
    observations = observed(n=4)
    other = observations.copy()
    other[:, 0] = -other[:, 0]  # the frame that is longest ago
    heard = collections.defaultdict(list)
    for horizon in (2, -1):
        for given in (observations, other):
            heard[horizon].append(
                generate_frames(
                    predictor, given, 1, steps=5, past_horizon=horizon, seed=3
                )[:, -1]
            )
    np.testing.assert_array_equal(*heard[2])
    assert np.abs(heard[-1][0] - heard[-1][1]).max() > 1e-4


def test_verbose_says_what_was_done(predictor, capsys):
    generate_frames(predictor, observed(), 2, steps=3, verbose=True)
    assert "2 frames of 2 videos, 3 points in time" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, options, message",
    [
        (lambda x: x[0], {}, r"shape \[3, 3, 16, 16\]; wanted \[b, n, 3, 16, 16\]"),
        (lambda x: np.moveaxis(x, 2, -1), {}, r"\[2, 3, 16, 16, 3\]; wanted"),
        (lambda x: x[..., :8], {}, r"\[2, 3, 3, 16, 8\]; wanted"),
        (lambda x: x.astype(np.uint8), {}, "are uint8; wanted float"),
        (lambda x: 2 * x, {}, r"values from .* to .*; wanted \[-1, 1\]"),
        (lambda x: x * np.nan, {}, "from nan to nan"),
        (lambda x: x, {"num_frames": 0}, "num_frames=0; wanted at least 1"),
        (lambda x: x, {"steps": 1}, "steps=1 .* leaves 1 points"),
        (lambda x: x, {"warm_start": -0.1}, "warm_start=-0.1; wanted 0 or more"),
        (lambda x: x, {"past_horizon": 1}, "past_horizon=1; wanted at least 2"),
    ],
)
def test_what_cannot_be_generated_says_so(predictor, change, options, message):
    with pytest.raises(ValueError, match=message):
        generate_frames(predictor, change(observed()), **{"num_frames": 1} | options)


def test_other_systems_have_no_such_call(predictor):
    other = types.SimpleNamespace(system=predictor.system.vae, label="vae")
    with pytest.raises(ValueError, match="a vae generates no frames; use predict"):
        generate_frames(other, observed(), 1)
    with pytest.raises(AttributeError, match="no attribute 'generate'"):
        jax_vidpred.__getattr__("generate")
