"""Trains a small VAE on several layouts; started by test_sharding.py.

    python run_layouts.py RUNS [PORT COUNT INDEX]

RUNS is JSON: a list of [workdir, arguments of make_layout, number of steps].
"""

import json
import os
import sys

import jax
import numpy as np

from jax_vidpred.data import schema
from jax_vidpred.systems.vae import VAESystem
from jax_vidpred.train import cluster, loop, mesh

BATCH = 16


def batches(first_step, process_index=0, process_count=1):
    """Endless random clips; step k has the same for any number of processes."""
    rows = BATCH // process_count
    mine = slice(process_index * rows, (process_index + 1) * rows)
    for step in range(first_step, 2**30):
        draw = np.random.default_rng(step)
        coarse = draw.integers(0, 256, (BATCH, 1, 4, 4, 3), np.uint8)
        video = coarse.repeat(4, 2).repeat(4, 3)
        ids = np.arange(BATCH, dtype=np.int32)
        yield {schema.VIDEO: video[mine], schema.VIDEO_ID: ids[mine]}


def train(workdir, layout, num_steps):
    """The system is the same every time, but for the layout."""
    system = VAESystem(
        model={"features": 32, "stride": 2, "num_blocks": 1, "latent_channels": 4},
        losses={"l1": 1.0, "kl": 1e-3, "annealing": {"kind": "none", "num_steps": 1}},
        optim={"learning_rate": 1e-3, "num_steps": 100, "clip_norm": 1.0},
        ema_decay=0.9,
    )
    place = jax.process_index(), jax.process_count()

    def evaluation():
        batch = next(batches(10**6, *place))
        yield batch | {schema.MASK: np.ones(len(batch[schema.VIDEO]), bool)}

    return loop.train(
        system,
        train_batches=lambda first_step: batches(first_step, *place),
        eval_batches=evaluation,
        num_steps=num_steps,
        log_every=1,
        eval_every=1000,
        checkpoint_every=1000,
        seed=1,
        workdir=workdir,
        layout=mesh.make_layout(**layout),
    )


def main(runs, port=None, count=None, index=None):
    if port:
        os.environ[cluster.ADDRESS] = f"127.0.0.1:{port}"
        os.environ[cluster.COUNT], os.environ[cluster.INDEX] = count, index
        cluster.join(timeout=120)
    for workdir, layout, num_steps in json.loads(runs):
        state = train(workdir, layout, num_steps)
        largest = max(jax.tree.leaves(state.params), key=lambda leaf: leaf.size)
        held = largest.addressable_shards[0].data.nbytes
        print("bytes of the largest array on one device:", held)
    cluster.leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
