"""Agreement of two flow fields: hand-made numbers."""

import jax.numpy as jnp
import numpy as np

from jax_vidpred.metrics import flow


def test_errors_and_their_quantiles():
    first = jnp.zeros((1, 2, 2)).at[0, 0].set(jnp.array([3.0, -4.0]))
    errors = flow.endpoint_errors(first[None], jnp.zeros((1, 1, 2, 2)))
    np.testing.assert_allclose(errors, [[[5.0, 0.0]]])
    values = jnp.arange(101.0)
    summary = flow.error_summary(values, values >= 0)
    assert summary == {"mean": 50, "q50": 50, "q90": 90, "q99": 99}
    half = flow.error_summary(values, values < 51)
    assert half["mean"] == 25 and half["q90"] == 45
    assert np.isnan(flow.error_summary(values, values < 0)["mean"])


def test_hidden_cells():
    # two hits, one miss, one false alarm
    truth, estimate = jnp.array([0.0, 0, 0, 1, 1]), jnp.array([0.0, 0, 1, 0, 1])
    scores = flow.hidden_scores(truth, estimate)
    np.testing.assert_allclose(list(scores.values()), 2 / 3, rtol=1e-6)
    # a quarter in common; a half is hidden, three quarters are found
    truth, estimate = jnp.array([0.75, 0.75, 1.0]), jnp.array([0.75, 1.0, 0.5])
    scores = flow.hidden_scores(truth, estimate)
    assert scores == {"precision": 1 / 3, "recall": 0.5, "f1": 0.4}
    assert np.isnan(flow.hidden_scores(jnp.ones(3), jnp.ones(3))["f1"])
