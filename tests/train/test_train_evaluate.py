"""The evaluation pass: masked means over all examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.train import evaluate as evaluation
from jax_vidpred.train import protocol, state


class Values(protocol.System):
    """Its metric is what the batch holds."""

    required_keys = ("values",)

    def __init__(self):
        self.num_traces = 0

    def eval_step(self, now, batch, rng):
        self.num_traces += 1
        return {"value": now.params * batch["values"]}


def run(batches, system=None):
    now = state.TrainState(step=jnp.int32(0), params=jnp.float32(2.0), opt_state=())
    return evaluation.evaluate(system or Values(), now, batches, jax.random.key(0))


def batch(values, mask=None):
    made = {"values": np.asarray(values, np.float32)}
    return made if mask is None else made | {schema.MASK: np.asarray(mask)}


def test_mean_over_examples_not_over_batches():
    summary = run([batch([1, 2, 3]), batch([10, 99, np.nan], [True, False, False])])
    assert summary == {"value": 2 * (1 + 2 + 3 + 10) / 4}


def test_mean_over_time_of_masked_examples():
    summary = run([batch([[1, 2], [3, 4], [50, 60]], [True, True, False])])
    assert summary == {"value": 5.0}


def test_values_that_are_not_finite_are_counted():
    summary = run([batch([1, np.nan]), batch([np.inf, np.inf], [True, False])])
    assert np.isnan(summary["value"])
    assert summary["value" + evaluation.NONFINITE] == 2


def test_compiled_once_for_a_system():
    system = Values()
    for _ in range(3):
        run([batch([1, 2]), batch([3, 4])], system)
    assert system.num_traces == 1


def test_what_cannot_be_evaluated_is_explained():
    with pytest.raises(ValueError, match="no batch to evaluate"):
        run([])
    with pytest.raises(ValueError, match="masked as padding"):
        run([batch([1, 2], [False, False])])
    with pytest.raises(ValueError, match=r"needs \['values'\] in a batch"):
        run([{"other": np.zeros(2)}])
    with pytest.raises(ValueError, match=r"'value' has shape \(2, 3, 4\)"):
        run([batch(np.zeros((2, 3, 4)))])
