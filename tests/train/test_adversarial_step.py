"""One step of a generator and its discriminator against the same step written out."""

import functools
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_vidpred.losses import adversarial as losses
from jax_vidpred.models.layers.conv import Conv
from jax_vidpred.models.layers.discriminator import PatchDiscriminator
from jax_vidpred.train import adversarial, mesh, optim, rngs, state
from jax_vidpred.train.flop import count_flop

KEY, NAME = jax.random.key(0), optim.DISCRIMINATOR
WEIGHT = 0.8
SIZE = 16


class Generator(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.tanh(Conv(8)(x))
        return Conv(3)(x)


GENERATOR = Generator()
JUDGE = PatchDiscriminator(features=8, num_layers=1)


def generate(params, batch, rng):
    keys = rngs.for_rows(rng, batch["row"])
    shape = batch["real"].shape[1:]
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    fake = GENERATOR.apply({"params": params["net"]}, batch["real"] + 0.1 * noise)
    # Not about the images; it reaches the last kernel too.
    size = sum(jnp.mean(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
    return adversarial.Generated(fake, batch["real"], size, {"size": size})


def reconstruct(fake, real):
    loss = jnp.mean(jnp.abs(fake - real))
    return loss, {"l1": loss}


def discriminate(params, images):
    return JUDGE.apply({"params": params}, images)


def game(**changes):
    return adversarial.Game(
        **{
            "generate": generate,
            "reconstruct": reconstruct,
            "discriminate": discriminate,
            "generator_loss": losses.generator_hinge,
            "discriminator_loss": losses.discriminator_hinge,
            "adaptive_weight": losses.adaptive_weight,
            "last_kernel": ("net", "Conv_2", "kernel"),
            "weight": WEIGHT,
        }
        | changes
    )


def make(optimizer, ema=False):
    images = jnp.zeros((1, SIZE, SIZE, 3))
    first, second = jax.random.split(jax.random.key(1))
    judge = JUDGE.init(second, images)["params"]
    # As after some training: its first weights are small, and so would be all it says.
    judge = jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, judge)
    params = {"net": GENERATOR.init(first, images)["params"], NAME: judge}
    return state.TrainState.create(params=params, optimizer=optimizer, ema=ema)


def batch_of(count):
    images = jax.random.uniform(jax.random.key(2), (count, SIZE, SIZE, 3))
    # Not alike: each device, and each part, sees something else.
    return {"real": images * jnp.linspace(0.2, 1, count)[:, None, None, None]}


def play(game, optimizer, now, batch, **settings):
    step = functools.partial(adversarial.adversarial_step, game, optimizer)
    return jax.jit(functools.partial(step, **settings))(now, batch, KEY)


BATCH = batch_of(4)
PLAIN = optim.pair_optimizers(optax.sgd(1.0), optax.sgd(1.0))


def moved(before, after):
    """The gradient, where the optimiser is plain descent at rate 1."""
    return jax.tree.map(lambda a, b: a - b, before.params, after.params)


def assert_near(found, expected, rtol=1e-4, atol=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        found,
        expected,
    )


def written_out(params):
    """Losses by name, each of (generator's parameters, discriminator's)."""
    batch = BATCH | {"row": jnp.arange(4)}
    net = {"net": params["net"]}

    def fooling(net, judge):
        fake = generate(net, batch, KEY).fake
        return -discriminate(judge, fake).mean()

    def judging(net, judge):
        fake, real = generate(net, batch, KEY).fake, batch["real"]
        right = jax.nn.relu(1 - discriminate(judge, real)).mean()
        return 0.5 * (right + jax.nn.relu(1 + discriminate(judge, fake)).mean())

    functions = {
        "reconstruction": lambda net, _: reconstruct(
            generate(net, batch, KEY).fake, batch["real"]
        )[0],
        "size": lambda net, _: generate(net, batch, KEY).loss,
        "fooling": fooling,
        "judging": judging,
    }
    judge = params[NAME]

    @jax.jit
    def results(net, judge):
        values = {name: f(net, judge) for name, f in functions.items()}
        own = {name: jax.grad(f)(net, judge) for name, f in functions.items()}
        return values, own, jax.grad(judging, 1)(net, judge)

    return results(net, judge)


@pytest.mark.slow
def test_gradients_are_those_of_the_losses_one_by_one():
    before = make(PLAIN)
    after, scalars = play(game(), PLAIN, before, BATCH)
    values, own, of_judge = written_out(before.params)
    long, short = (
        np.linalg.norm(own[name]["net"]["Conv_2"]["kernel"].ravel())
        for name in ("reconstruction", "fooling")
    )
    weight = WEIGHT * long / (short + 1e-4)
    assert 0.01 < weight < 100
    assert float(scalars["adversarial_weight"]) == pytest.approx(weight, rel=1e-4)
    expected = jax.tree.map(
        lambda a, b, c: a + b + weight * c,
        *(own[name] for name in ("reconstruction", "size", "fooling")),
    )
    assert_near(moved(before, after), expected | {NAME: of_judge})
    for name, value in {
        "loss": values["reconstruction"] + values["size"] + weight * values["fooling"],
        "reconstruction_loss": values["reconstruction"],
        "l1": values["reconstruction"],
        "size": values["size"],
        "generator_adversarial": values["fooling"],
        "discriminator_loss": values["judging"],
        "logits_fake": -values["fooling"],
        "logits_real": discriminate(before.params[NAME], BATCH["real"]).mean(),
    }.items():
        assert float(scalars[name]) == pytest.approx(float(value), rel=1e-4), name


def test_weight_can_be_fixed():
    before, fixed = make(PLAIN), game(adaptive_weight=None, last_kernel=())
    after, scalars = play(fixed, PLAIN, before, BATCH)
    assert float(scalars["adversarial_weight"]) == pytest.approx(WEIGHT)
    _, own, _ = written_out(before.params)
    expected = jax.tree.map(
        lambda a, b, c: a + b + WEIGHT * c,
        *(own[name] for name in ("reconstruction", "size", "fooling")),
    )
    assert_near(moved(before, after)["net"], expected["net"])


def test_before_the_start_only_the_reconstruction_counts():
    start = 2
    adam = {"learning_rate": 0.01, "num_steps": 9, "weight_decay": 0.1}
    late = optim.make_optimizer(**adam | {"learning_rate": 0.02, "warmup_steps": 1})
    pair = optim.pair_optimizers(optim.make_optimizer(**adam), late, start=start)
    alone, now = make(pair, ema=True), make(pair, ema=True)

    @jax.jit
    def step(now, weight):
        played = game(start=start, weight=weight)
        return adversarial.adversarial_step(
            played, pair, now, BATCH, KEY, ema_decay=0.9
        )

    first = now
    for _ in range(start):
        alone, _ = step(alone, 0.0)
        now, scalars = step(now, WEIGHT)
        for name in ("adversarial_weight", "discriminator_loss", "logits_real"):
            assert float(scalars[name]) == 0
        assert float(scalars["reconstruction_loss"]) > 0
        jax.tree.map(np.testing.assert_array_equal, now.params, alone.params)
        jax.tree.map(
            np.testing.assert_array_equal, now.params[NAME], first.params[NAME]
        )
        assert np.any(now.params["net"]["Conv_0"]["kernel"] != 0)
    before = now
    now, scalars = step(now, WEIGHT)
    alone, _ = step(alone, 0.0)
    assert float(scalars["adversarial_weight"]) > 0
    change = moved(before, now)[NAME]["Conv_2"]["kernel"]
    # Its first step: half of the rate (warm-up), each weight by that much (Adam).
    assert 0.009 < np.median(np.abs(change)) < 0.011
    apart = (
        now.params["net"]["Conv_2"]["kernel"] - alone.params["net"]["Conv_2"]["kernel"]
    )
    assert np.any(np.abs(apart) > 1e-4)
    # The generator's rate is the one that is logged: third of nine cosine steps.
    expected = optim.make_schedule(
        learning_rate=0.01, warmup_steps=0, num_steps=9, schedule="cosine"
    )(2)
    assert float(scalars["learning_rate"]) == pytest.approx(float(expected))


def test_norms_are_clipped_apart():
    def clipped():
        return optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0))

    pair = optim.pair_optimizers(clipped(), clipped())
    before = make(pair)
    after, scalars = play(game(), pair, before, BATCH)
    assert float(scalars["gradient_norm"]) > 0.1
    change = moved(before, after)
    for name in ("net", NAME):
        assert float(optax.tree.norm(change[name])) == pytest.approx(0.01, rel=1e-3)


def test_parts_of_a_batch_have_weights_of_their_own():
    before, each = make(PLAIN), []
    rows = jnp.arange(4)

    # The row is given, so that a half draws what it draws in the whole.
    def generate_rows(params, batch, rng):
        return generate(params, batch | {"row": batch["given"]}, rng)

    same_rows = game(generate=generate_rows)

    batch = BATCH | {"given": rows}
    for half in (slice(0, 4, 2), slice(1, 4, 2)):
        mine = {name: x[half] for name, x in batch.items()}
        each.append(play(same_rows, PLAIN, before, mine)[1])
    _, scalars = play(same_rows, PLAIN, before, batch, accumulate=2)
    weights = [float(one["adversarial_weight"]) for one in each]
    assert abs(weights[0] - weights[1]) > 1e-3
    expected = pytest.approx(np.mean(weights), rel=1e-4)
    assert float(scalars["adversarial_weight"]) == expected


def test_path_to_no_kernel_says_what_is_there():
    before = make(PLAIN)
    for path, message in [
        (
            ("net", "Conv_9", "kernel"),
            "no 'Conv_9' after .*'Conv_0', 'Conv_1', 'Conv_2'",
        ),
        (("net", "Conv_2"), "leads to .*name one array"),
        (("net", "Conv_2", "kernel", "x"), "there is an array"),
    ]:
        wrong = game(last_kernel=path)
        with pytest.raises(ValueError, match=message):
            adversarial.adversarial_step(wrong, PLAIN, before, BATCH, KEY)
    with pytest.raises(ValueError, match="the parameters have .*'net'"):
        PLAIN.init({"net": jnp.zeros(2)})


def test_nothing_is_computed_twice():
    before = make(PLAIN)
    net, judge = {"net": before.params["net"]}, before.params[NAME]
    batch, images = BATCH | {"row": jnp.arange(4)}, BATCH["real"]

    def alone(net):
        made = generate(net, batch, KEY)
        return reconstruct(made.fake, made.real)[0] + made.loss

    def last(x, kernel):
        return Conv(3).apply({"params": {"kernel": kernel, "bias": jnp.zeros(3)}}, x)

    def judged(judge, images):
        return discriminate(judge, images).sum()

    hidden, kernel = jnp.ones((4, SIZE, SIZE, 8)), net["net"]["Conv_2"]["kernel"]
    forward = count_flop(judged, judge, images)
    parts = count_flop(jax.value_and_grad(alone), net)
    parts += 2 * count_flop(jax.value_and_grad(judged), judge, images)
    parts += count_flop(jax.value_and_grad(judged, 1), judge, images) - forward
    # What the adaptive weight costs: the last kernel's gradient two times more.
    parts += 2 * count_flop(jax.grad(lambda k: last(hidden, k).sum()), kernel)

    def step(before):
        return adversarial.adversarial_step(game(), PLAIN, before, BATCH, KEY)

    assert count_flop(step, before) == pytest.approx(parts, rel=1e-6)
    # The compiler leaves out what is not needed, and adds elementwise work.
    analysis = jax.jit(step).lower(before).compile().cost_analysis()
    assert analysis["flops"] < 1.2 * parts


def train_two_steps(devices):
    """Parameters and the last scalars by path."""
    adam = {"learning_rate": 1e-2, "num_steps": 4}
    pair = optim.pair_optimizers(
        optim.make_optimizer(**adam), optim.make_optimizer(**adam), start=1
    )
    layout = mesh.make_layout(data=devices)
    now = layout.born(lambda: make(pair, ema=True))
    batch = layout.put_batch(jax.device_get(batch_of(8)))

    def step(now, batch):
        return adversarial.adversarial_step(
            game(start=1), pair, now, batch, KEY, accumulate=2, ema_decay=0.9
        )

    with jax.set_mesh(layout.mesh):
        for _ in range(2):
            now, scalars = jax.jit(step)(now, batch)
    return flat({"params": now.params, "scalars": scalars})


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
def test_two_devices_give_the_result_of_one(tmp_path):
    flags = "--xla_force_host_platform_device_count=2"
    paths = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), *sys.path])
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=os.environ | environment,
        check=True,
    )
    one, two = (dict(np.load(tmp_path / f"{count}.npz")) for count in (1, 2))
    assert one["['scalars']['adversarial_weight']"] > 0
    for name, value in one.items():
        # Adam divides by the root of tiny squares, which magnifies.
        atol = 3e-5 if "params" in name else 0
        np.testing.assert_allclose(two[name], value, rtol=1e-4, atol=atol, err_msg=name)


if __name__ == "__main__":
    for count in (1, 2):
        np.savez(f"{sys.argv[1]}/{count}.npz", **train_two_steps(count))
