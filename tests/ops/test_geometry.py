"""Camera of CLEVRER: the measured formulas, rays and projection as inverses, angles."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jax_vidpred.ops import geometry


def test_projection_is_the_measured_camera():
    x, y, z = points = np.random.default_rng(0).uniform(-2, 2, (3, 50))
    uv, depth = geometry.project(points.T)
    w = -0.866025 * x - 0.5 * z + 5
    np.testing.assert_allclose(depth, w, rtol=1e-5)
    u = (-207.846 * x + 525 * y - 120 * z + 1200) / w
    v = (123.936 * x - 534.663 * z + 800) / w
    np.testing.assert_allclose(uv, np.stack([u, v], -1), rtol=1e-4, atol=2e-3)


def test_origin_is_the_middle_and_axes_point_as_documented():
    uv, depth = geometry.project(np.zeros(3))
    np.testing.assert_allclose(uv, [240, 160])
    assert depth == pytest.approx(5)
    right, _ = geometry.project(np.array([0, 0.1, 0]))
    near, _ = geometry.project(np.array([0.1, 0, 0]))
    up, _ = geometry.project(np.array([0, 0, 0.1]))
    assert right[0] > 240 and right[1] == pytest.approx(160)
    assert near[1] > 160 and up[1] < 160


@pytest.mark.parametrize("height,width,samples", [(6, 10, 1), (5, 4, 3)])
def test_rays_hit_the_pixels_that_they_were_shot_through(height, width, samples):
    origin, directions = geometry.camera_rays(height, width, samples)
    assert directions.shape == (height, width, samples**2, 3)
    uv, depth = geometry.project(origin + 3.5 * directions, height, width)
    np.testing.assert_allclose(depth, 3.5)
    steps = (np.arange(samples) + 0.5) / samples
    for i in range(height):
        for j in range(width):
            expected = [(j + x, i + y) for y in steps for x in steps]
            np.testing.assert_allclose(uv[i, j], expected, atol=1e-9)


@pytest.mark.parametrize("z", [0.0, 0.2])
def test_homography_is_the_projection_of_a_plane(z):
    xy = np.random.default_rng(1).uniform(-2, 2, (20, 2))
    points = np.column_stack([xy, np.full(20, z)])
    uv, depth = geometry.project(points, 128, 96)
    u, v, w = (
        geometry.floor_homography(128, 96, z) @ np.column_stack([xy, np.ones(20)]).T
    )
    np.testing.assert_allclose(w, depth)
    np.testing.assert_allclose(np.stack([u / w, v / w], -1), uv)


def test_angles_agree_with_scipy_and_come_back():
    angles = np.random.default_rng(2).uniform(-1.5, 1.5, (40, 3))
    matrix = geometry.euler_to_matrix(angles)
    np.testing.assert_allclose(
        matrix, Rotation.from_euler("xyz", angles).as_matrix(), atol=1e-12
    )
    np.testing.assert_allclose(geometry.matrix_to_euler(matrix), angles, atol=1e-9)


def test_angles_at_the_pole_give_the_same_rotation():
    matrix = geometry.euler_to_matrix(np.array([0.4, np.pi / 2, -0.7]))
    again = geometry.euler_to_matrix(geometry.matrix_to_euler(matrix))
    np.testing.assert_allclose(again, matrix, atol=1e-7)


def test_annotated_cylinder_stands_upright_whatever_its_spin():
    matrix = geometry.euler_to_matrix(np.array([np.pi / 2, 0, 1.1]))
    np.testing.assert_allclose(np.abs(matrix[:, 1]), [0, 0, 1], atol=1e-12)


def test_workers_of_the_twin_do_not_load_jax():
    code = (
        "import sys, jax_vidpred.ops.geometry, jax_vidpred.data.twin.render,"
        " jax_vidpred.data.twin.groundtruth; sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
