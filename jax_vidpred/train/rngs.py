"""Random keys that follow from (seed, stream name, step): nothing random is stored."""

import zlib

import jax


def fold_in(rng: jax.Array, data: str | int | jax.Array) -> jax.Array:
    """A new key from `rng` and a name or a number.

    Names are hashed by CRC-32: the same in every process and every Python.
    """
    if isinstance(data, str):
        data = zlib.crc32(data.encode())
    return jax.random.fold_in(rng, data)


def for_rows(rng: jax.Array, rows: jax.Array) -> jax.Array:
    """A key for each row [b] of a batch: what is drawn for an example by its own key is
    the same, however the batch is split.
    """
    return jax.vmap(lambda row: jax.random.fold_in(rng, row))(rows)


def fold_in_each(keys: jax.Array, data: str | int | jax.Array) -> jax.Array:
    """New keys [b] from keys [b] and one name or number: `fold_in` for each of them."""
    return jax.vmap(lambda key: fold_in(key, data))(keys)


def for_step(seed: int, stream: str, step: int | jax.Array) -> jax.Array:
    """The key of one step of one stream, for example `for_step(0, "train", 17)`."""
    return fold_in(fold_in(jax.random.key(seed), stream), step)
