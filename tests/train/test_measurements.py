"""Means over a period, and the first step that is not finite."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.train import measurements


def scalars(loss, kl=1.0):
    return {"loss": jnp.float32(loss), "kl": jnp.float32(kl)}


def test_means_of_periods_one_late():
    kept = measurements.Measurements()
    for step in (1, 2, 3):
        kept.add(step, scalars(step))
        assert kept.take() is None
    kept.end_period(3)
    kept.add(4, scalars(100))  # of the next period
    assert kept.take() == (3, 3, {"loss": 2.0, "kl": 1.0})
    assert kept.take() is None
    kept.end_period(4)
    assert kept.take() == (4, 1, {"loss": 100.0, "kl": 1.0})


def test_first_bad_step_is_named_although_later_ones_are_worse():
    kept = measurements.Measurements()
    kept.add(6, scalars(1.0))
    kept.check()
    kept.add(7, scalars(np.inf, kl=0.5))
    kept.add(8, scalars(np.nan, kl=np.nan))
    expected = r"step 7: loss=inf \(finite: kl=0.5\)"
    with pytest.raises(measurements.TrainingDiverged, match=expected):
        kept.check()
    kept.end_period(8)
    with pytest.raises(measurements.TrainingDiverged, match=expected):
        kept.take()


def test_only_scalars_are_taken():
    kept = measurements.Measurements()
    with pytest.raises(ValueError, match=r"'flow' of shape \(2,\)"):
        kept.add(1, {"flow": jnp.zeros(2)})
