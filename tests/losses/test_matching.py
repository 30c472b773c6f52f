"""Unordered slots: the cheapest assignment, found independently by scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jax_vidpred.losses.matching import unordered_state_loss

B, K, N, D = 2, 3, 5, 4


@pytest.fixture
def slots():
    rng = np.random.default_rng(0)
    return {
        "present_logit": jnp.float32(rng.normal(size=(B, K, N))),
        "state": jnp.float32(rng.normal(size=(B, K, N, D))),
        "target": jnp.float32(rng.normal(size=(B, K, N, D))),
        "present": jnp.asarray(rng.uniform(size=(B, K, N)) < 0.6),
    }


def test_equals_the_hungarian_assignment(slots):
    loss = unordered_state_loss(**slots)
    values = {name: np.asarray(value, np.float64) for name, value in slots.items()}
    for b, k in np.ndindex(B, K):
        logit, here = values["present_logit"][b, k], values["present"][b, k]
        cost = np.zeros((N, N))
        for slot, item in np.ndindex(N, N):
            sign = 1 if here[item] else -1
            cost[slot, item] = np.log1p(np.exp(-sign * logit[slot]))
            difference = values["state"][b, k, slot] - values["target"][b, k, item]
            cost[slot, item] += here[item] * np.abs(difference).mean()
        best = cost[linear_sum_assignment(cost)].sum() / N
        np.testing.assert_allclose(loss[b, k], best, rtol=1e-5)


def test_order_of_slots_and_of_objects_does_not_matter(slots):
    loss = unordered_state_loss(**slots)
    order = jnp.array([3, 0, 4, 2, 1])
    for names in (("present_logit", "state"), ("target", "present")):
        shuffled = slots | {name: slots[name][:, :, order] for name in names}
        np.testing.assert_allclose(unordered_state_loss(**shuffled), loss, rtol=1e-5)


def test_states_of_absent_objects_do_not_matter(slots):
    absent = ~slots["present"][..., None]
    other = jnp.where(absent, 1e3, slots["target"])
    np.testing.assert_array_equal(
        unordered_state_loss(**slots | {"target": other}),
        unordered_state_loss(**slots),
    )
    gradient = jax.grad(lambda s: unordered_state_loss(**slots | {"state": s}).sum())(
        slots["state"]
    )
    used = np.any(np.asarray(gradient), -1).sum(-1)
    np.testing.assert_array_equal(used, slots["present"].sum(-1))


def test_perfect_slots_in_any_order_cost_nothing(slots):
    logits = jnp.where(slots["present"], 30.0, -30.0)
    order = jnp.array([4, 3, 2, 1, 0])
    loss = unordered_state_loss(
        logits[:, :, order],
        slots["target"][:, :, order],
        slots["target"],
        slots["present"],
    )
    np.testing.assert_allclose(loss, np.zeros((B, K)), atol=1e-6)


def test_too_many_slots_are_refused():
    many = jnp.zeros((1, 1, 8, 2))
    with pytest.raises(ValueError, match="8 object slots give 8! assignments"):
        unordered_state_loss(many[..., 0], many, many, many[..., 0] > 0)
