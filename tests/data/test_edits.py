"""Edits of annotations: paths that bend, collide or end, and what else must hold."""

import dataclasses
import json

import numpy as np
import pytest

from jax_vidpred.data.edits import CONTACT, edited, read_edited
from jax_vidpred.data.schema import FRAME_SECONDS, Annotation, DataError
from jax_vidpred.ops.geometry import FULL_HEIGHT, project

FRAMES, FIRST = 40, 10


@pytest.fixture
def annotation():
    """Two objects on straight paths in view, and one that rests."""
    t = np.arange(FRAMES)[:, None]
    zeros = np.zeros((FRAMES, 1))
    paths = [
        np.hstack([-1 + 0.02 * t, -1 + zeros, 0.2 + zeros]),
        np.hstack([0.5 + zeros, 1 - 0.02 * t, 0.2 + zeros]),
        np.hstack([1 + zeros, 0 + zeros, 0.2 + zeros]),
    ]
    location = np.stack(paths, 1)
    velocity = np.gradient(location, FRAME_SECONDS, axis=0)
    return Annotation(
        video_id=3,
        properties=(
            ("red", "metal", "cube"),
            ("blue", "rubber", "sphere"),
            ("gray", "metal", "cylinder"),
        ),
        location=location,
        orientation=np.zeros((FRAMES, 3, 3)),
        velocity=velocity,
        angular_velocity=np.zeros((FRAMES, 3, 3)),
        in_view=np.ones((FRAMES, 3), bool),
    )


def test_a_path_bends_evenly_from_what_was_seen(annotation):
    after = edited(annotation, [{"object": 0, "move": [0.6, -0.3], "until": 30}], FIRST)
    offset = after.location - annotation.location
    np.testing.assert_array_equal(offset[: FIRST + 1], 0)
    np.testing.assert_allclose(offset[20, 0], [0.3, -0.15, 0])
    np.testing.assert_allclose(offset[30:, 0], np.tile([0.6, -0.3, 0], (10, 1)))
    np.testing.assert_array_equal(offset[:, 1:], 0)
    # 0.6 units in 20 frames besides its own 0.02 a frame.
    speed = after.velocity[20, 0, 0] * FRAME_SECONDS
    np.testing.assert_allclose(speed, 0.02 + 0.03)
    np.testing.assert_array_equal(after.velocity[:, 1], annotation.velocity[:, 1])


def test_objects_that_collide_touch_in_that_frame_and_pass_the_speed_on(annotation):
    after = edited(annotation, [{"objects": [0, 2], "collide": 25}], FIRST)
    between = np.linalg.norm(after.location[:, 0] - after.location[:, 2], axis=-1)
    np.testing.assert_allclose(between[25], CONTACT)
    assert (between[:25] > CONTACT + 0.01).all() and (between[26:] > CONTACT).all()
    np.testing.assert_allclose(after.location[30, 0], after.location[25, 0])
    before = after.location[20, 0] - after.location[19, 0]
    np.testing.assert_allclose(after.location[31, 2] - after.location[30, 2], before)
    (collision,) = after.collisions
    assert collision.frame == 25 and collision.objects == (0, 2)
    np.testing.assert_array_equal(
        after.location[: FIRST + 1], annotation.location[: FIRST + 1]
    )


def test_what_is_removed_or_pushed_out_of_the_picture_is_not_in_view(annotation):
    after = edited(annotation, [{"object": 1, "remove": True}], FIRST)
    assert (
        after.in_view[: FIRST + 1, 1].all() and not after.in_view[FIRST + 1 :, 1].any()
    )
    assert after.in_view[:, [0, 2]].all()
    after = edited(annotation, [{"object": 2, "move": [0, 40.0]}], FIRST)
    assert after.in_view[FIRST, 2] and not after.in_view[-1, 2]


def test_it_is_a_whole_annotation_that_can_be_written(annotation, tmp_path):
    after = edited(annotation, [{"object": 0, "move": [0.1, 0.1]}], FIRST)
    path = tmp_path / "edited.json"
    path.write_text(after.to_json())
    again = read_edited(path, None, FIRST)
    np.testing.assert_allclose(again.location, after.location, atol=1e-4)


@pytest.mark.parametrize(
    "edits, said",
    [
        ([], "no edits"),
        ([{"object": 7, "move": [0, 0]}], "object 7 is not there, 0 to 2"),
        ([{"object": 0, "move": [0, 0], "until": 10}], "frame 10 does not lie in 11"),
        ([{"objects": [0, 2], "collide": 99}], "frame 99"),
        ([{"object": 0}], "is no edit"),
        ([{"object": 0, "move": [0.0]}], "unpack"),
        ([{"object": 0, "move": 3}], "wanted a list such as"),
        (["move"], "wanted a list such as"),
    ],
)
def test_an_edit_that_cannot_be_is_one_line(annotation, tmp_path, edits, said):
    path = tmp_path / "edits.json"
    path.write_text(json.dumps(edits))
    with pytest.raises(DataError, match=said) as error:
        read_edited(path, annotation, FIRST)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_edits_want_an_annotation_and_files_must_be_readable(annotation, tmp_path):
    path = tmp_path / "edits.json"
    path.write_text('[{"object": 0, "remove": true}]')
    with pytest.raises(DataError, match="no annotation beside it"):
        read_edited(path, None, FIRST)
    path.write_text("[{")
    with pytest.raises(DataError, match="cannot be read"):
        read_edited(path, annotation, FIRST)
    with pytest.raises(DataError, match="cannot be read"):
        read_edited(tmp_path / "absent.json", annotation, FIRST)


def test_the_past_stays_and_who_is_moved_into_the_picture_is_in_view(annotation):
    hidden = annotation.in_view.copy()
    hidden[20:, 0] = False  # it left
    hidden[:5, 2] = False
    before = dataclasses.replace(annotation, in_view=hidden)
    edits = [{"object": 0, "move": [0.1, 0.0]}, {"object": 2, "move": [30.0, 0.0]}]
    after = edited(before, edits, FIRST)
    np.testing.assert_array_equal(after.in_view[: FIRST + 1], hidden[: FIRST + 1])
    assert after.in_view[FIRST + 1 :, 0].all()
    assert after.in_view[FIRST + 1, 2] and not after.in_view[-1, 2]


def test_who_is_removed_is_gone_whatever_else_is_said(annotation):
    edits = [{"object": 0, "remove": True}, {"object": 0, "move": [0.1, 0.0]}]
    assert not edited(annotation, edits, FIRST).in_view[FIRST + 1 :, 0].any()


def test_half_of_an_object_in_the_picture_is_in_view(annotation):
    # Its centre leaves the picture 0.2 units before all of it does.
    edit = [{"object": 0, "move": [-9.0, -9.0]}]
    after = edited(annotation, edit, FIRST)
    place, _ = project(after.location[:, 0])
    centre_out = (place[:, 0] < 0) | (place[:, 1] > FULL_HEIGHT) | (place[:, 1] < 0)
    seen = after.in_view[:, 0]
    assert (seen & centre_out).any() and not seen[-1]
