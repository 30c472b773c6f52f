"""Ground truth from poses: against finite differences, warping and hand-made scenes."""

import numpy as np
import pytest

from jax_vidpred.data.schema import Annotation
from jax_vidpred.data.twin import groundtruth
from jax_vidpred.data.twin.scene import SIZES
from jax_vidpred.ops import geometry

CUBE, SPHERE = ("red", "rubber", "cube"), ("blue", "metal", "sphere")
CYLINDER = ("green", "rubber", "cylinder")


def make(properties, location, orientation=None):
    """An annotation from locations [t, n, 3] and angles [t, n, 3]."""
    location = np.asarray(location, np.float64)
    if orientation is None:
        orientation = np.zeros_like(location)
        for k, (_, _, shape) in enumerate(properties):
            orientation[:, k, 0] = np.pi / 2 if shape == "cylinder" else 0
    zeros = np.zeros_like(location)
    return Annotation(
        video_id=0,
        properties=tuple(properties),
        location=location,
        orientation=np.asarray(orientation, np.float64),
        velocity=zeros,
        angular_velocity=zeros,
        in_view=np.ones(location.shape[:2], bool),
    )


def line(start, end, num_frames):
    return np.linspace([*start, 0.2], [*end, 0.2], num_frames)


def bilinear(image, positions):
    """image [h, w, ...] at pixel-edge positions [..., 2], borders repeated."""
    h, w = image.shape[:2]
    x = np.clip(positions[..., 0] - 0.5, 0, w - 1.001)
    y = np.clip(positions[..., 1] - 0.5, 0, h - 1.001)
    i, j = y.astype(int), x.astype(int)
    a, b = (y - i)[..., None], (x - j)[..., None]
    top = image[i, j] * (1 - b) + image[i, j + 1] * b
    bottom = image[i + 1, j] * (1 - b) + image[i + 1, j + 1] * b
    return top * (1 - a) + bottom * a


def centres(height, width):
    return np.stack(
        np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1
    )


def crossing():
    """A spinning cube that passes before a slow sphere and a still cylinder."""
    t = 6
    location = np.stack(
        [
            line((0.6, -0.5), (0.4, 0.5), t),
            line((-0.2, 0.1), (-0.25, 0.3), t),
            line((-1.2, 0.6), (-1.2, 0.6), t),
        ],
        axis=1,
    )
    orientation = np.zeros_like(location)
    orientation[:, 0, 2] = np.linspace(0.2, 0.9, t)
    orientation[:, 2, 0] = np.pi / 2
    return make((CUBE, SPHERE, CYLINDER), location, orientation)


def test_segments_lie_on_the_projected_centres():
    annotation = crossing()
    segments = groundtruth.cast_segments(annotation, 80, 120)
    assert segments.shape == (6, 80, 120) and segments.dtype == np.uint8
    uv, _ = geometry.project(annotation.location, 80, 120)
    for t in (0, 5):
        for k in range(3):
            column, row = uv[t, k].astype(int)
            assert segments[t, row, column] == k + 1
    assert (segments[:, 0] == 0).all()
    chosen = groundtruth.cast_segments(annotation, 80, 120, frames=[4, 1])
    np.testing.assert_array_equal(chosen, segments[[4, 1]])


def test_a_sphere_covers_what_the_tangent_cone_covers():
    annotation = make((SPHERE,), [[[0.5, -0.3, 0.2]]])
    segments = groundtruth.cast_segments(annotation, 160, 240)[0]
    origin, directions = geometry.camera_rays(160, 240)
    towards = annotation.location[0, 0] - origin
    distance = np.linalg.norm(towards)
    ray = directions[:, :, 0] / np.linalg.norm(directions[:, :, 0], axis=-1)[..., None]
    angle = np.arccos(ray @ (towards / distance))
    np.testing.assert_array_equal(segments == 1, angle < np.arcsin(0.2 / distance))


def test_an_annotated_cylinder_stands_upright():
    annotation = make((CYLINDER,), [[[0.0, 0.0, 0.2]]])
    segments = groundtruth.cast_segments(annotation, 320, 480)[0]
    rows, columns = np.nonzero(segments)
    size = SIZES["cylinder"]
    back_rim, _ = geometry.project(np.array([-size, 0, 0.2 + size]))
    front_foot, _ = geometry.project(np.array([size, 0, 0.2 - size]))
    assert abs(rows.min() - back_rim[1]) < 1 and abs(rows.max() - front_foot[1]) < 1.5
    sides, _ = geometry.project(np.array([[0, -size, 0.2], [0, size, 0.2]]))
    middle = columns[rows == int(sides[0, 1])]
    assert abs(np.ptp(middle) + 1 - np.ptp(sides[:, 0])) < 1.5


def test_depth_of_floor_and_of_the_nearest_point_of_a_sphere():
    annotation = make((SPHERE,), [[[0.0, 0.0, 0.2]]])
    depth = groundtruth.cast_depth(annotation, 321, 481)[0]
    origin, directions = geometry.camera_rays(321, 481)
    floor = -origin[2] / directions[:, :, 0, 2]
    segments = groundtruth.cast_segments(annotation, 321, 481)[0]
    np.testing.assert_allclose(depth[segments == 0], floor[segments == 0], rtol=1e-6)
    nearest = np.linalg.norm(origin - [0, 0, 0.2]) - 0.2
    hit = directions[:, :, 0] * depth[..., None]
    reached = np.linalg.norm(hit, axis=-1)[segments == 1].min()
    assert reached == pytest.approx(nearest, abs=1e-3)


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("stride", [1, 3])
def test_flow_is_the_difference_of_projected_poses(direction, stride):
    annotation = crossing()
    h, w = 60, 90
    flow, visible = groundtruth.cast_flow(
        annotation, h, w, frame_stride=stride, samples=1, direction=direction
    )
    assert flow.shape == (6 - stride, h, w, 2) and visible.shape == flow.shape[:3]
    assert flow.dtype == visible.dtype == np.float32
    segments = groundtruth.cast_segments(annotation, h, w)
    depth = groundtruth.cast_depth(annotation, h, w)
    origin, directions = geometry.camera_rays(h, w)
    for t in range(6 - stride):
        here, there = (t + stride, t) if direction == "backward" else (t, t + stride)
        point = origin + depth[here][..., None] * directions[:, :, 0]
        expected = np.zeros((h, w, 2))
        for k in range(3):
            # Independent formula: turn about the vertical by the change of rz.
            angle = (
                annotation.orientation[there, k, 2] - annotation.orientation[here, k, 2]
            )
            c, s = np.cos(angle), np.sin(angle)
            turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            moved = (point - annotation.location[here, k]) @ turn.T
            moved += annotation.location[there, k]
            shift = geometry.project(moved, h, w)[0] - geometry.project(point, h, w)[0]
            expected = np.where((segments[here] == k + 1)[..., None], shift, expected)
        np.testing.assert_allclose(flow[t], expected, atol=1e-4)


def test_warping_by_flow_gives_the_next_segments_where_visible():
    annotation = crossing()
    h, w = 80, 120
    flow, visible = groundtruth.cast_flow(annotation, h, w, samples=1)
    segments = groundtruth.cast_segments(annotation, h, w)
    classes = np.eye(4)[segments]
    for t in range(5):
        warped = bilinear(classes[t], centres(h, w) + flow[t])
        agreement = (warped * classes[t + 1]).sum(-1)[visible[t] == 1]
        assert agreement.mean() > 0.995
    hidden = visible == 0
    assert 0.001 < hidden.mean() < 0.05


def test_surface_points_keep_their_colour():
    """A painted cube: its texture, looked up at the flow's end, does not change."""
    annotation = crossing()
    h, w = 80, 120
    flow, visible = groundtruth.cast_flow(annotation, h, w, samples=1)
    segments = groundtruth.cast_segments(annotation, h, w)
    depth = groundtruth.cast_depth(annotation, h, w)
    origin, directions = geometry.camera_rays(h, w)
    rotation = geometry.euler_to_matrix(annotation.orientation)
    paint = []
    for t in (2, 3):
        point = origin + depth[t][..., None] * directions[:, :, 0]
        local = (point - annotation.location[t, 0]) @ rotation[t, 0]
        paint.append(np.where((segments[t] == 1)[..., None], local, 0))
    on = (segments[3] == 1) & (visible[2] == 1)
    warped = bilinear(paint[0], centres(h, w) + flow[2])
    error = np.abs(warped - paint[1]).max(-1)[on]
    assert np.median(error) < 1e-3  # edges interpolate between faces
    unmoved = np.abs(paint[0] - paint[1]).max(-1)[on]
    assert np.median(unmoved) > 30 * np.median(error)


def test_a_still_scene_has_no_flow_and_is_all_visible():
    annotation = make(
        (CUBE, CYLINDER), np.repeat([[[0.3, 0, 0.2], [-1, 0.5, 0.2]]], 3, axis=0)
    )
    flow, visible = groundtruth.cast_flow(annotation, 24, 24, samples=3)
    assert np.abs(flow).max() < 1e-5
    np.testing.assert_array_equal(visible, 1)


def test_what_comes_from_outside_is_not_visible():
    inside, outside = (0.0, 2.0), (0.0, 3.5)
    annotation = make((SPHERE,), line(outside, inside, 2)[:, None])
    _, backward = groundtruth.cast_flow(annotation, 80, 120, samples=1)
    segments = groundtruth.cast_segments(annotation, 80, 120)
    assert (segments[0] == 0).all() and (segments[1] == 1).sum() > 50
    assert (backward[0][segments[1] == 1] == 0).all()
    assert (backward[0][segments[1] == 0] == 1).all()
    # Forward, nothing of the first frame but the covered floor is lost.
    flow, forward = groundtruth.cast_flow(
        annotation, 80, 120, samples=1, direction="forward"
    )
    np.testing.assert_array_equal(forward[0] == 0, segments[1] == 1)
    assert (flow == 0).all()


def test_what_an_object_hid_is_not_visible():
    # A sphere behind a cube that leaves: the sphere does not move, yet appears.
    location = [[[0.5, 0, 0.2], [-0.2, 0, 0.2]], [[0.5, 1.5, 0.2], [-0.2, 0, 0.2]]]
    annotation = make((CUBE, SPHERE), location)
    segments = groundtruth.cast_segments(annotation, 80, 120)
    flow, visible = groundtruth.cast_flow(annotation, 80, 120, samples=1)
    sphere = segments[1] == 2
    np.testing.assert_array_equal(visible[0][sphere] == 0, segments[0][sphere] == 1)
    assert 0 < (visible[0][sphere] == 0).sum() < sphere.sum()
    assert np.abs(flow[0][sphere]).max() < 1e-5


def test_the_side_that_turned_away_is_not_visible():
    location = np.zeros((2, 1, 3)) + [0, 0, 0.2]
    orientation = np.zeros((2, 1, 3))
    orientation[1, 0, 2] = np.pi / 2
    annotation = make((CUBE,), location, orientation)
    segments = groundtruth.cast_segments(annotation, 80, 120)
    _, visible = groundtruth.cast_flow(annotation, 80, 120, samples=1)
    _, directions = geometry.camera_rays(80, 120)
    depth = groundtruth.cast_depth(annotation, 80, 120)[1]
    height = geometry.CAMERA_POSITION[2] + depth * directions[:, :, 0, 2]
    front = (segments[1] == 1) & (height < 0.35)
    top = (segments[1] == 1) & (height > 0.385)
    assert (visible[0][front] == 0).all()  # the front was the hidden left side
    assert visible[0][top].mean() > 0.97


def test_forward_and_backward_undo_each_other():
    annotation = crossing()
    h, w = 80, 120
    backward, seen = groundtruth.cast_flow(annotation, h, w, samples=1)
    forward, _ = groundtruth.cast_flow(annotation, h, w, samples=1, direction="forward")
    errors = []
    for t in range(5):
        back = bilinear(forward[t], centres(h, w) + backward[t]) + backward[t]
        moving = (seen[t] == 1) & (np.abs(backward[t]).max(-1) > 0.1)
        errors.append(np.linalg.norm(back, axis=-1)[moving])
    errors = np.concatenate(errors)
    assert np.median(errors) < 0.02 and np.percentile(errors, 75) < 0.05


def test_cells_average_visibility_and_do_not_mix_motions():
    annotation = crossing()
    fine, _ = groundtruth.cast_flow(annotation, 64, 64, samples=1)
    _, fine_visible = groundtruth.cast_flow(annotation, 64, 64, samples=1)
    coarse, visible = groundtruth.cast_flow(annotation, 16, 16, samples=4)
    blocks = fine_visible.reshape(5, 16, 4, 16, 4).mean((2, 4))
    np.testing.assert_allclose(visible, blocks, atol=1e-6)
    segments = groundtruth.cast_segments(annotation, 64, 64)[1:]
    segments = segments.reshape(5, 16, 4, 16, 4).swapaxes(2, 3).reshape(5, 16, 16, 16)
    fine = fine.reshape(5, 16, 4, 16, 4, 2).swapaxes(2, 3).reshape(5, 16, 16, 16, 2)
    for index in np.ndindex(5, 16, 16):
        counts = np.bincount(segments[index], minlength=4)
        counts = np.r_[counts[1:], counts[0]]  # the floor loses ties
        winner = (np.argmax(counts) + 1) % 4
        expected = fine[index][segments[index] == winner].mean(0) / 4
        np.testing.assert_allclose(coarse[index], expected, atol=1e-5)


def test_wrong_arguments_say_what_is_wanted():
    annotation = crossing()
    with pytest.raises(ValueError, match=r"frame_stride=6: .* 1\.\.5"):
        groundtruth.cast_flow(annotation, 8, 8, frame_stride=6)
    with pytest.raises(ValueError, match="backward"):
        groundtruth.cast_flow(annotation, 8, 8, direction="up")
