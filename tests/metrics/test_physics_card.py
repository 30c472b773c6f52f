"""The physics card of two balls whose collision is written down here."""

import numpy as np
import pytest

from jax_vidpred.metrics.physics import (
    CLOSEST,
    Tracks,
    interpenetration,
    physics_card,
)

SECONDS, FRAMES, CONTEXT, STEP = 0.056, 30, 6, 17
SPEED = 2.0


def _state(restitution=0.5, kept=1.0, speed=SPEED):
    """Ball 0 hits ball 1 at rest, head on, amid STEP; ball 2 passes far off.

    Args:
      restitution: relative speed after over that before.
      kept: momentum after over that before.
      speed: of ball 0 before.
    """
    time = (np.arange(FRAMES) - STEP - 0.5) * SECONDS
    speeds = speed * (kept - restitution) / 2, speed * (kept + restitution) / 2
    is_after = time > 0
    state = np.zeros((FRAMES, 3, 4))
    state[:, 0, 2] = np.where(is_after, speeds[0], speed)
    state[:, 1, 2] = np.where(is_after, speeds[1], 0)
    state[:, 2, 2] = -1.0
    state[..., 0] = time[:, None] * state[..., 2]
    state[:, 0, 0] -= 0.41
    state[:, 2, 1] = 2.0
    return state


def _card(state, predicted=None, found=None, present=None, seen=None, **options):
    everywhere = np.ones(state.shape[:2], bool)
    predicted = state if predicted is None else predicted
    arguments = {
        "counted": np.ones(state.shape[1], bool),
        "contacts": np.array([[STEP, 0, 1]]),
        "seconds": SECONDS,
        "num_context": CONTEXT,
        **options,
    }
    return physics_card(
        Tracks(predicted[..., :2], everywhere if found is None else found),
        state,
        everywhere if present is None else present,
        everywhere if seen is None else seen,
        **arguments,
    )


def test_the_truth_has_no_error():
    card = _card(_state())
    assert len(card["position_error"]) == len(card["speed_error"]) == FRAMES - CONTEXT
    for name, value in card.items():
        assert np.all(np.asarray(value) == 0), name


def test_errors_of_a_contact_by_hand():
    card = _card(_state(0.5), _state(0.2))
    assert card["restitution_error"] == pytest.approx([0.3])
    assert card["momentum_error"] == pytest.approx([0.0], abs=1e-9)
    # Ball 1 gets (1 + e) / 2 of the speed.
    assert card["impulse_error"] == pytest.approx([SPEED * 0.15])
    card = _card(_state(0.5), _state(0.5, kept=0.7))
    assert card["momentum_error"] == pytest.approx([SPEED * 0.3])
    # After the impact ball 1 is slower by that times a half; so is ball 0.
    far = STEP + 4 - CONTEXT
    assert card["speed_error"][far] == pytest.approx(SPEED * 0.15 * 2 / 3)
    assert card["speed_error"][:4] == pytest.approx(np.zeros(4), abs=1e-9)


def test_no_restitution_where_it_means_nothing():
    # Hardly a push, or a slow approach.
    for state in (_state(-0.9), _state(0.5, speed=0.45)):
        assert np.isnan(_card(state, state)["restitution_error"]).all()
    slow = _state(0.5, speed=0.55)
    assert _card(slow)["restitution_error"] == [0]


def test_a_ghost_and_a_frozen_pair_give_no_impulse():
    state = _state(0.5)
    ghost = _state(-1.0)  # ball 0 goes through ball 1 as if it were not there
    card = _card(state, ghost)
    assert card["momentum_error"] == pytest.approx([0.0], abs=1e-9)
    assert card["impulse_error"] == pytest.approx([SPEED * 0.75])
    assert np.isnan(card["restitution_error"]).all()  # no push, no contact
    # Labels are identities, so ball 0 at the place of ball 1 is one inside the other.
    assert card["interpenetration"] > 0 and card["interpenetration_true"] == 0
    frozen = np.repeat(state[CONTEXT - 1 : CONTEXT], FRAMES, 0)
    card = _card(state, frozen)
    assert card["impulse_error"] == pytest.approx([SPEED * 0.75])
    assert (np.diff(card["position_error"][: STEP - CONTEXT]) > 0).all()


def test_positions_by_hand_and_who_counts():
    state = _state()
    predicted = state.copy()
    predicted[:, 0, :2] += (0.03, 0.04)
    predicted[:, 2, :2] += 10.0
    counted = np.array([True, True, False])
    card = _card(state, predicted, counted=counted)
    assert card["position_error"] == pytest.approx(np.full(FRAMES - CONTEXT, 0.025))
    # What is not in view does not count.
    found = np.ones(state.shape[:2], bool)
    found[10:, 1] = False
    present = np.ones_like(found)
    present[12:, 0] = False
    card = _card(state, predicted, found, present, counted=counted)
    # A line of two frames is no velocity: of 0, the last of five are frames 10 and 11.
    assert np.isfinite(card["speed_error"][11 - CONTEXT])
    present[9] = False
    lonely = _card(state, predicted, found, present, counted=counted)
    assert np.isnan(lonely["speed_error"][11 - CONTEXT])
    assert card["position_error_found"][10 - CONTEXT] == pytest.approx(0.05)
    assert np.isnan(card["position_error_found"][12 - CONTEXT :]).all()
    # What is lost costs as much as what is 2 units away or further.
    assert card["position_error"][10 - CONTEXT] == pytest.approx((0.05 + 2.0) / 2)
    assert card["position_error"][12 - CONTEXT :] == pytest.approx(2.0)
    assert np.isnan(card["speed_error"][12 - CONTEXT :]).all()
    assert np.isnan(card["momentum_error"]).all()


def test_names_and_places_do_not_matter():
    state, predicted = _state(0.5), _state(0.3, kept=0.9)
    card = _card(state, predicted)
    order = np.array([2, 1, 0])
    again = _card(
        state[:, order], predicted[:, order], contacts=np.array([[STEP, 1, 2]])
    )
    for name, value in card.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-6, atol=1e-9)


def test_vanished_and_appeared():
    state = _state()
    found = np.ones(state.shape[:2], bool)
    present, seen = found.copy(), found.copy()
    found[20:25, 0] = False  # five frames lost
    seen[24, 0] = False  # in one of them nobody could have seen it
    present[26:, 2] = False  # it leaves, and the prediction does not notice
    card = _card(state, found=found, present=present, seen=seen)
    future = FRAMES - CONTEXT
    assert card["vanished"] == pytest.approx(4 / (3 * future - 1 - 4))
    assert card["appeared"] == pytest.approx(4 / (3 * future - 5))
    counted = np.array([False, True, True])
    assert _card(state, found=found, present=present, counted=counted)["vanished"] == 0
    nothing = np.zeros_like(found)
    card = _card(state, found=nothing)
    assert card["vanished"] == 1 and np.isnan(card["appeared"])


def test_interpenetration():
    positions = np.zeros((4, 2, 2))
    positions[:, 1, 0] = [CLOSEST - 0.01, CLOSEST + 0.01, 0.1, 3.0]
    found = np.ones((4, 2), bool)
    assert interpenetration(positions, found) == 0.5
    found[2, 0] = False
    assert interpenetration(positions, found) == pytest.approx(1 / 3)
    assert np.isnan(interpenetration(positions, np.zeros_like(found)))


def test_contacts_of_the_context_are_left_out():
    contacts = np.array([[CONTEXT - 2, 0, 1], [CONTEXT - 1, 0, 1], [STEP, 1, 0]])
    card = _card(_state(), contacts=contacts)
    assert len(card["momentum_error"]) == len(card["restitution_error"]) == 2
    # No pair is pushed apart anywhere near the first of them.
    assert np.isnan(card["restitution_error"]).tolist() == [True, False]
    assert len(_card(_state(), contacts=np.zeros((0, 3)))["impulse_error"]) == 0


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="wanted"):
        _card(_state(), counted=np.ones(2, bool))
    with pytest.raises(ValueError, match="below t"):
        _card(_state(), num_context=FRAMES)
