"""Command: RIVER's vector field of this package and of PyTorch by turns, on one core.

    python tests/oracle/river_versus_torch.py

Training steps (forward, backward, Adam; dropout on both sides) and the forward pass
that sampling repeats, of the same mathematics and weights
(`tests/features/test_river_oracle.py` proves them equal). PyTorch eager, with its fused
attention and fused Adam. Prints medians of CPU time, which other programs on the
machine disturb least, and their ratio.
"""

import argparse
import os
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--cases", default="small,middle,sampling")
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--core", type=int, default=0)
parser.add_argument("--dropout", type=float, default=0.05)
options = parser.parse_args()
# Before either of them starts its threads.
os.sched_setaffinity(0, {options.core})
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path[:0] = [os.getcwd(), os.path.join(os.getcwd(), "tests", "features")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
import torch_river  # noqa: E402

from jax_vidpred.features.vector_field_weights import to_params  # noqa: E402
from jax_vidpred.models.river import VectorField  # noqa: E402

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
CHANNELS, SIDE = 4, 16
SMALL = dict(features=256, heads=4, depth=2, mid_depth=2, patch=2)
MIDDLE = dict(features=384, heads=6, depth=2, mid_depth=2, patch=1)


def build(batch, features, heads, depth, mid_depth, patch):
    """Both nets with the same parameters, and what they are called with."""
    theirs = torch_river.VectorField(
        CHANNELS, features, heads, depth, mid_depth, patch, options.dropout
    )
    ours = VectorField(
        CHANNELS, features, heads, depth, mid_depth, patch, options.dropout
    )
    shape = (batch, SIDE, SIDE, CHANNELS)
    inputs = [RNG.normal(size=shape).astype(np.float32) for _ in range(3)]
    inputs += [RNG.integers(1, 9, batch).astype(np.int32)]
    inputs += [RNG.uniform(size=batch).astype(np.float32)]
    like = jax.eval_shape(ours.init, jax.random.key(0), *inputs)["params"]
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    params = jax.tree.map(jnp.array, to_params(state, like))
    images = [torch.tensor(x).permute(0, 3, 1, 2).contiguous() for x in inputs[:3]]
    return (ours, params, inputs), (theirs, [*images, *map(torch.tensor, inputs[3:])])


def training(batch, **sizes):
    (net, params, inputs), (theirs, tensors) = build(batch, **sizes)
    target = RNG.normal(size=inputs[0].shape).astype(np.float32)
    optimizer = optax.adam(1e-4)

    def step(params, state, inputs, target, key):
        def loss(params):
            keys = jax.random.split(key, batch)
            return ((net.apply({"params": params}, *inputs, keys) - target) ** 2).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    args = [params, optimizer.init(params)]
    count = iter(range(10**6))
    compiled, seconds = compile_(
        step, *args, inputs, target, jax.random.key(0), donate=(0, 1)
    )

    def in_jax():
        *args[:], value = compiled(*args, inputs, target, jax.random.key(next(count)))
        jax.block_until_ready(value)

    theirs.train()
    adam = torch.optim.Adam(theirs.parameters(), 1e-4, fused=True)
    wanted = torch.tensor(target).permute(0, 3, 1, 2).contiguous()

    def in_torch():
        adam.zero_grad()
        nn_loss = torch.nn.functional.mse_loss(theirs(*tensors), wanted)
        nn_loss.backward()
        adam.step()
        nn_loss.item()

    return in_jax, in_torch, seconds


def sampling(batch, **sizes):
    (net, params, inputs), (theirs, tensors) = build(batch, **sizes)
    theirs.eval()
    compiled, seconds = compile_(
        lambda p, x: net.apply({"params": p}, *x), params, inputs
    )

    def in_torch():
        with torch.no_grad():
            theirs(*tensors)

    return lambda: compiled(params, inputs).block_until_ready(), in_torch, seconds


def compile_(function, *args, donate=()):
    began = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=donate).lower(*args).compile()
    return compiled, time.perf_counter() - began


CASES = {
    "small": (training, 16, SMALL),
    "middle": (training, 2, MIDDLE),
    "sampling": (sampling, 64, SMALL),
}


def main():
    print(f"jax {jax.__version__}, torch {torch.__version__}, core {options.core}")
    for name in options.cases.split(","):
        make, batch, sizes = CASES[name]
        in_jax, in_torch, seconds = make(batch, **sizes)
        times = {in_jax: [], in_torch: []}
        for turn in range(options.rounds + 2):
            for call, kept in times.items():
                began = time.process_time()
                call()
                if turn >= 2:  # the first ones fill caches
                    kept.append((time.process_time() - began) * 1e3)
        ours, theirs = times.values()
        ratio = np.median(ours) / np.median(theirs)
        print(
            f"{name}, batch {batch}, {sizes}: compiled in {seconds:.1f} s\n"
            f"  jax {np.median(ours):.0f} ms (min {min(ours):.0f}), torch"
            f" {np.median(theirs):.0f} ms (min {min(theirs):.0f}): {ratio:.2f}"
            f" (of minima {min(ours) / min(theirs):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
