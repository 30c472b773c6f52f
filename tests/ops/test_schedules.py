"""Schedules at steps where their value is known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops.schedules import adaptive_ratio, kl_weight, teacher_forcing_ratio


@pytest.mark.parametrize(
    "kind, final, values",
    [
        ("always", 0.0, {0: 1, 50: 1, 500: 1}),
        ("linear", 0.0, {0: 1, 25: 0.75, 50: 0.5, 100: 0, 500: 0}),
        ("linear", 0.2, {0: 1, 50: 0.6, 100: 0.2, 500: 0.2}),
        # k^100 = final, or 1 % where final is less; half of the way is its root.
        ("exponential", 0.25, {0: 1, 50: 0.5, 100: 0.25, 500: 0.25}),
        ("exponential", 0.0, {0: 1, 50: 0.1, 100: 0.01, 150: 0.001}),
        ("exponential", 0.001, {100: 0.01, 150: 0.001, 500: 0.001}),
        # 1 / (1 + e^(10 (p - 1/2))): e^5 = 148.4132
        ("inverse_sigmoid", 0.0, {0: 148.4132 / 149.4132, 50: 0.5, 100: 1 / 149.4132}),
        ("inverse_sigmoid", 0.3, {50: 0.5, 100: 0.3, 500: 0.3}),
    ],
)
def test_teacher_forcing(kind, final, values):
    ratio = jax.jit(
        lambda s: teacher_forcing_ratio(s, kind=kind, num_steps=100, final=final)
    )
    for step, value in values.items():
        np.testing.assert_allclose(ratio(step), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "kind, options, values",
    [
        ("none", {}, {0: 1, 70: 1}),
        ("monotonic", {"ratio": 0.5}, {0: 0, 25: 0.5, 50: 1, 100: 1, 900: 1}),
        # Two cycles of 50 steps: up in 20, held for 30.
        (
            "cyclical",
            {"num_cycles": 2, "ratio": 0.4},
            {0: 0, 10: 0.5, 20: 1, 49: 1, 50: 0, 60: 0.5, 99: 1, 100: 0},
        ),
    ],
)
def test_kl_weight(kind, options, values):
    weight = jax.jit(lambda s: kl_weight(s, kind=kind, num_steps=100, **options))
    for step, value in values.items():
        np.testing.assert_allclose(weight(step), value, rtol=1e-5, atol=1e-6)


def test_unknown_kinds_name_the_known_ones():
    with pytest.raises(ValueError, match="'never' is unknown; use always, linear"):
        teacher_forcing_ratio(jnp.int32(0), kind="never", num_steps=1)
    with pytest.raises(ValueError, match="'slow' is unknown; use none, monotonic or"):
        kl_weight(jnp.int32(0), kind="slow", num_steps=1)


def test_adaptive_ratio_falls_on_progress_and_stays_a_probability():
    assert adaptive_ratio(0.5, True, change=0.2) == pytest.approx(0.3)
    assert adaptive_ratio(0.5, False, change=0.2) == pytest.approx(0.7)
    assert adaptive_ratio(0.05, True) == 0.0
    assert adaptive_ratio(0.95, False) == 1.0
