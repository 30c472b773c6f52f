"""A system of a few lines and its data: linear regression on a clip's mean colour."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.train import loop, optim, protocol, rngs, state, steps


class ToySystem(protocol.System):
    """Learns y = mean of the clip; the noise makes the random keys matter."""

    required_keys = (schema.VIDEO, schema.VIDEO_ID)

    def __init__(self, *, num_steps=40, learning_rate=0.05, diverge_at=None):
        self.diverge_at = diverge_at
        self.optimizer = optim.make_optimizer(
            learning_rate=learning_rate, num_steps=num_steps
        )

    def init(self, rng, batch):
        features = batch[schema.VIDEO].shape[-1]
        return state.TrainState.create(
            params={"linear": {"kernel": jax.random.normal(rng, (features, 1))}},
            optimizer=self.optimizer,
            ema=True,
            extra={"ratio": jnp.ones(())},
            frozen={"scale": jnp.full((), 2.0)},
        )

    def errors(self, params, now, batch):
        video = batch[schema.VIDEO].astype(jnp.float32) / 255.0
        inputs = video.mean((1, 2, 3))
        predicted = (inputs @ params["linear"]["kernel"])[:, 0]
        return predicted - now.frozen["scale"] * inputs.mean(-1)

    def train_step(self, now, batch, rng):
        noise = 0.01 * jax.random.normal(rngs.fold_in(rng, "noise"), ())

        def loss_fn(params, batch, rng):
            errors = self.errors(params, now, batch) + noise
            loss = now.extra["ratio"] * jnp.mean(errors**2)
            if self.diverge_at is not None:
                loss = jnp.where(now.step + 1 == self.diverge_at, jnp.nan, loss)
            ids = jnp.sum(batch[schema.VIDEO_ID])
            return loss, {"ratio": now.extra["ratio"], "noise": noise, "ids": ids}

        return steps.gradient_step(
            loss_fn, self.optimizer, now, batch, rng, ema_decay=0.9
        )

    def eval_step(self, now, batch, rng):
        del rng
        return {"error": self.errors(now.params, now, batch) ** 2}

    def after_evaluation(self, now, summary):
        # The exact number of evaluations shows in the loss of every later step.
        del summary
        return now.replace(extra={"ratio": 0.9 * now.extra["ratio"]})


def toy_clip(index):
    values = np.random.default_rng(index).integers(0, 256, (2, 4, 4, 3), np.uint8)
    return {schema.VIDEO: values, schema.VIDEO_ID: np.int32(index)}


def toy_train_batches(first_step=0, num_epochs=None):
    batches = (
        grain.MapDataset.source(range(64))
        .seed(3)
        .shuffle()
        .repeat(num_epochs)
        .map(toy_clip)
        .batch(8)
    )
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return batches[first_step:].to_iter_dataset(ahead)


def toy_eval_batches():
    for first in (100, 108):
        clips = [toy_clip(first + k) for k in range(8)]
        batch = {key: np.stack([clip[key] for clip in clips]) for key in clips[0]}
        yield batch | {schema.MASK: np.ones(8, bool)}


def toy_train(workdir, system=None, **changes):
    arguments = {
        "train_batches": toy_train_batches,
        "eval_batches": toy_eval_batches,
        "num_steps": 40,
        "log_every": 5,
        "eval_every": 10,
        "checkpoint_every": 10,
        "seed": 7,
        "workdir": workdir,
        "config_json": '{"name": "toy"}',
    }
    return loop.train(system or ToySystem(), **(arguments | changes))


@pytest.fixture
def toy():
    """The class, data and a run of the toy system, by name."""

    class Toy:
        System = ToySystem
        clip = staticmethod(toy_clip)
        train_batches = staticmethod(toy_train_batches)
        eval_batches = staticmethod(toy_eval_batches)
        train = staticmethod(toy_train)

    return Toy
