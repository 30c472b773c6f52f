"""Many futures of one context: what they are worth together."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.evaluation import samples

CONTEXT, FUTURE = 2, 3


def video(seed=0):
    return np.random.default_rng(seed).random((2, CONTEXT + FUTURE, 8, 8, 3), "f4")


def scores(draws):
    return samples.scores(draws, jnp.asarray(video()), CONTEXT)


def test_the_best_draw_counts_and_so_does_the_mean():
    truth = video()[:, CONTEXT:]
    grey, black = np.full_like(truth, 0.5), np.zeros_like(truth)
    near = np.stack([truth[0], grey[1]])  # clip 0 is hit by one draw
    told = scores([grey, near, black])
    assert told["psnr_best_of_3"][0] == 100  # the cap of a frame without error
    squares = [((truth[1] - shade) ** 2).mean((1, 2, 3)) for shade in (0.5, 0.5, 0)]
    psnr = [-10 * np.log10(square).mean() for square in squares]
    np.testing.assert_allclose(told["psnr_best_of_3"][1], max(psnr), rtol=1e-5)
    np.testing.assert_allclose(told["psnr_mean_of_3"][1], np.mean(psnr), rtol=1e-5)
    assert told["crps"].shape == told["spread_variance"].shape == (2, FUTURE)


def test_draws_that_are_all_alike_claim_to_be_certain():
    alike = np.full_like(video()[:, CONTEXT:], 0.5)
    told = scores([alike] * 4)
    assert (told["spread_variance"] == 0).all()
    assert (told["spread_error_squared"] > 0.01).all()
    error = np.abs(video()[:, CONTEXT:] - 0.5).mean((2, 3, 4))
    np.testing.assert_allclose(told["crps"], error, rtol=1e-5)
    # As certain, and right: nothing to complain of.
    truth = video()[:, CONTEXT:]
    assert scores([truth] * 4)["crps"] == pytest.approx(0, abs=1e-6)
