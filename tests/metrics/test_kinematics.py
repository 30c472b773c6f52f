"""Contacts in tracks: balls whose laws of motion are written down here."""

import numpy as np
import pytest

from jax_vidpred.metrics.collision import Clip, count_events
from jax_vidpred.metrics.kinematics import (
    POSITION_NOISE,
    THRESHOLD,
    find_contacts,
    fit_lines,
    push_scores,
)

SECONDS = 0.056
FRAMES = 40


def _bounce(moment=20.5, restitution=0.5, passes_through=False):
    """Ball 0 hits ball 1 at rest head on; ball 2 rests beside; ball 3 goes elsewhere.

    Equal masses: the normal speed v becomes v (1 - e) / 2 and v (1 + e) / 2.
    """
    time = (np.arange(FRAMES) - moment) * SECONDS
    speed = 2.0
    share = 0.0 if passes_through else (1 + restitution) / 2
    later = np.maximum(time, 0)
    still = np.zeros(FRAMES)
    return np.stack(
        [
            np.stack([-0.41 + speed * (time - share * later), still], -1),
            np.stack([share * speed * later, still], -1),
            np.stack([still - 0.2, still + 0.45], -1),
            np.stack([1.5 * time, still + 2.0], -1),
        ],
        axis=1,
    )


def _all_found(positions):
    return np.ones(positions.shape[:2], bool)


def test_lines_by_hand():
    time = np.arange(5.0)
    positions = np.stack([3 * time * SECONDS + 1, 0 * time], -1)[:, None]
    found = np.ones((5, 1), bool)
    positions[2] = np.nan  # a gap
    found[2] = False
    lines = fit_lines(positions, found, np.array([-1, 0, 1]), SECONDS, at=0.5)
    np.testing.assert_allclose(lines.velocity[[1, 3], 0], [[3, 0], [3, 0]])
    np.testing.assert_allclose(lines.position[3, 0], [1 + 3 * 3.5 * SECONDS, 0])
    assert lines.count[:, 0].tolist() == [2, 2, 2, 2, 2]
    # Frames 1 and 3 are two steps apart, frames 0 and 1 one: 2 (d / 2)^2.
    np.testing.assert_allclose(lines.spread[:3, 0] / SECONDS**2, [0.5, 0.5, 2])
    assert np.isnan(fit_lines(positions, found, np.array([0]), SECONDS).velocity).all()


def test_a_bounce_is_found_where_and_when_it_is():
    positions = _bounce()
    contacts = find_contacts(positions, _all_found(positions), SECONDS)
    clear = contacts.scores >= THRESHOLD
    assert contacts.pairs[clear].tolist() == [[0, 1]]
    assert contacts.steps[clear].tolist() == [20]
    # Both jumps are 1.5; a line through six frames has a spread of 17.5 steps^2.
    deviation = POSITION_NOISE * np.sqrt(2 / 17.5) / SECONDS
    expected = np.sqrt(2) * 1.5 / deviation
    assert contacts.scores[clear] == pytest.approx([expected], rel=1e-6)


def test_names_turns_and_places_do_not_matter():
    positions = _bounce()
    before = find_contacts(positions, _all_found(positions), SECONDS)
    order = np.array([3, 1, 0, 2])  # object k of the new tracks was order[k]
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = positions[:, order] @ turn + 5.0
    after = find_contacts(moved, _all_found(positions), SECONDS)
    best = after.scores.argmax()
    assert sorted(order[after.pairs[best]]) == [0, 1]
    assert after.steps[best] == 20
    np.testing.assert_allclose(np.sort(after.scores), np.sort(before.scores), rtol=1e-6)


def test_ghosts_and_pushes_by_others_are_no_contacts():
    positions = _bounce(passes_through=True)
    contacts = find_contacts(positions, _all_found(positions), SECONDS)
    assert not (contacts.scores >= THRESHOLD).any()
    # Ball 2 stands beside ball 0 when that is hit. The jump is there, the partner not.
    positions = _bounce()
    scores, pairs = push_scores(positions, _all_found(positions), SECONDS)
    beside = scores[:, (pairs == (0, 2)).all(1)]
    assert np.isfinite(beside).any() and beside.max() < THRESHOLD


def test_far_away_is_no_contact():
    positions = _bounce()
    positions[:, 1] += 0.5  # the same jumps, at a distance
    contacts = find_contacts(positions, _all_found(positions), SECONDS)
    assert [0, 1] not in contacts.pairs[contacts.scores >= THRESHOLD].tolist()


def test_gaps_are_bridged_and_what_is_never_found_is_not():
    positions = _bounce()
    found = _all_found(positions)
    found[20:22, 0] = found[18, 1] = False
    contacts = find_contacts(
        np.where(found[..., None], positions, np.nan), found, 0.056
    )
    best = contacts.scores.argmax()
    assert contacts.pairs[best].tolist() == [0, 1]
    assert abs(contacts.steps[best] - 20) <= 1
    found[:, 1] = False
    assert 1 not in find_contacts(positions, found, SECONDS).pairs


def _clip(noise, rng):
    moment = rng.uniform(10, 30)
    positions = _bounce(moment, rng.uniform(0, 0.6))
    positions += noise * rng.normal(size=positions.shape)
    steps, pairs, scores = find_contacts(positions, _all_found(positions), SECONDS)
    return Clip(steps, scores, np.array([int(moment)]), pairs, np.array([[0, 1]]))


def test_noise_costs():
    rng = np.random.default_rng(0)
    scores = [
        count_events(
            [_clip(noise, rng) for _ in range(40)],
            threshold=4,  # two balls rest side by side: noise has many chances
            tolerance=2,
            typed=True,
        ).f1
        for noise in (0, 0.03, 0.3)
    ]
    assert scores[0] > 0.97 and scores[1] > 0.9 and scores[2] < 0.6


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"give \[t, n, 2\]"):
        find_contacts(np.zeros((5, 3)), np.ones((5, 3), bool), SECONDS)
    with pytest.raises(ValueError, match="two frames"):
        find_contacts(np.zeros((1, 3, 2)), np.ones((1, 3), bool), SECONDS)
