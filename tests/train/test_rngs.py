"""Random keys: functions of (seed, stream, step) and of nothing else."""

import subprocess
import sys
import zlib

import jax
import numpy as np

from jax_vidpred.train import rngs


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_keys_differ_in_seed_stream_and_step():
    keys = [
        bits(rngs.for_step(seed, stream, step))
        for seed in (0, 1)
        for stream in ("train", "eval")
        for step in (0, 1)
    ]
    assert len(set(keys)) == len(keys)


def test_definition_holds_for_traced_steps_too():
    key = jax.random.fold_in(jax.random.key(5), zlib.crc32(b"train"))
    expected = bits(jax.random.fold_in(key, 17))
    assert bits(rngs.for_step(5, "train", 17)) == expected
    assert bits(jax.jit(lambda k: rngs.for_step(5, "train", k))(17)) == expected


def test_names_hash_alike_in_every_process():
    # Python's own hash() of a string changes with PYTHONHASHSEED.
    code = "import zlib; print(zlib.crc32(b'dropout'))"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    expected = jax.random.fold_in(jax.random.key(0), int(printed))
    assert bits(rngs.fold_in(jax.random.key(0), "dropout")) == bits(expected)
