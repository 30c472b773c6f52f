"""Paths from noise to data: ends, velocity, the form with a division."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops import transport

NOISE, DATA = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))


def at(time, sigma):
    return transport.on_path(NOISE, DATA, jnp.full(3, time), sigma=sigma)


def test_it_begins_with_noise_and_ends_at_the_data():
    np.testing.assert_allclose(at(0.0, 0.1), NOISE)
    np.testing.assert_allclose(at(1.0, 0.0), DATA)
    np.testing.assert_allclose(at(1.0, 0.1), DATA + 0.1 * NOISE, atol=1e-6)


def test_each_example_has_its_own_time():
    mixed = transport.on_path(NOISE, DATA, jnp.array([0.0, 0.5, 1.0]), sigma=0.0)
    np.testing.assert_allclose(mixed[0], NOISE[0])
    np.testing.assert_allclose(mixed[1], (NOISE[1] + DATA[1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(mixed[2], DATA[2])


def test_velocity_is_the_derivative_of_the_path():
    _, derivative = jax.jvp(lambda t: at(t, 0.1), (0.3,), (1.0,))
    velocity = transport.path_velocity(NOISE, DATA, sigma=0.1)
    np.testing.assert_allclose(velocity, derivative, rtol=1e-5)


@pytest.mark.parametrize("time", [0.0, 0.4, 0.9])
def test_velocity_is_that_of_the_paper(time):
    sigma = 1e-3
    latent = np.asarray(at(time, sigma), np.float64)
    paper = (DATA - (1 - sigma) * latent) / (1 - (1 - sigma) * time)
    velocity = transport.path_velocity(NOISE, DATA, sigma=sigma)
    np.testing.assert_allclose(velocity, paper, atol=1e-4)
