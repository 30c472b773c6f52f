"""The camera of CLEVRER: world points to pixels and pixels to rays (plain numpy).

World: x towards the camera (down in the picture), y to the right, z up, the floor is
z = 0. Camera: x right, y down, z forward. Pixel-edge coordinates: the picture spans
[0, width] x [0, height] and pixel (row i, column j) has its centre at
(j + 0.5, i + 0.5). Any height and width stand for the whole 480x320 picture, squashed:
x and y are scaled separately.

Source: recovered from the official videos to 0.3-0.6 pixels of silhouette error; the
numbers are a 35 mm lens on a 32 mm sensor, five units from the origin, pitched 30
degrees. The camera is the same in every video.
"""

import numpy as np

FULL_HEIGHT, FULL_WIDTH = 320, 480
FOCAL = 525.0  # pixels of the full picture
CAMERA_POSITION = np.array([5 * np.sqrt(0.75), 0.0, 2.5])
# Rows: the camera's x, y and z axes in world coordinates.
WORLD_TO_CAMERA = np.array(
    [[0, 1, 0], [0.5, 0, -np.sqrt(0.75)], [-np.sqrt(0.75), 0, -0.5]]
)


def project(
    points: np.ndarray, height: int = FULL_HEIGHT, width: int = FULL_WIDTH
) -> tuple[np.ndarray, np.ndarray]:
    """World points to picture positions.

    Args:
      points: [..., 3] world units.
      height, width: of the picture or grid.

    Returns:
      uv: [..., 2] (x right, y down) in pixel-edge coordinates of that picture.
      depth: [...] distance along the viewing axis; uv means nothing where it is <= 0.
    """
    camera = (np.asarray(points, np.float64) - CAMERA_POSITION) @ WORLD_TO_CAMERA.T
    depth = camera[..., 2]
    scale = np.array([width, height]) / (FULL_WIDTH, FULL_HEIGHT)
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = FOCAL * camera[..., :2] / depth[..., None]
    return (offset + (FULL_WIDTH / 2, FULL_HEIGHT / 2)) * scale, depth


def camera_rays(
    height: int, width: int, samples: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Rays through a regular grid of samples x samples points in every pixel.

    Returns:
      origin: [3] the camera's position.
      directions: [height, width, samples**2, 3] float64 world vectors whose component
        along the viewing axis is 1, so origin + depth * direction lies at that depth.
        Samples run along x first; one sample means the pixel's centre.
    """
    x = (np.arange(width * samples) + 0.5) / samples * (FULL_WIDTH / width)
    y = (np.arange(height * samples) + 0.5) / samples * (FULL_HEIGHT / height)
    x = ((x - FULL_WIDTH / 2) / FOCAL).reshape(1, width, 1, samples)
    y = ((y - FULL_HEIGHT / 2) / FOCAL).reshape(height, 1, samples, 1)
    shape = (height, width, samples, samples)
    camera = np.stack(
        [np.broadcast_to(x, shape), np.broadcast_to(y, shape), np.ones(shape)], axis=-1
    )
    directions = camera.reshape(height, width, samples**2, 3) @ WORLD_TO_CAMERA
    return CAMERA_POSITION.copy(), directions


def floor_homography(
    height: int = FULL_HEIGHT, width: int = FULL_WIDTH, z: float = 0.0
) -> np.ndarray:
    """[3, 3] homography of the plane at height z: (x, y, 1) -> (u w, v w, w).

    w is the depth. z = 0.2 is the plane in which the objects' centres move.
    """
    intrinsics = np.array(
        [[FOCAL, 0, FULL_WIDTH / 2], [0, FOCAL, FULL_HEIGHT / 2], [0, 0, 1]]
    )
    scale = np.diag([width / FULL_WIDTH, height / FULL_HEIGHT, 1.0])
    plane = np.array([[1, 0, 0], [0, 1, 0], [0, 0, z]]) - np.outer(
        CAMERA_POSITION, [0, 0, 1]
    )
    return scale @ intrinsics @ WORLD_TO_CAMERA @ plane


def euler_to_matrix(angles: np.ndarray) -> np.ndarray:
    """Euler XYZ angles [..., 3] in radians to rotation matrices [..., 3, 3].

    The turns are about the fixed axes, x first: R = Rz @ Ry @ Rx. So a cylinder of the
    annotations, (pi/2, 0, spin), stands upright whatever its spin is.
    """
    angles = np.asarray(angles, np.float64)
    cx, cy, cz = np.moveaxis(np.cos(angles), -1, 0)
    sx, sy, sz = np.moveaxis(np.sin(angles), -1, 0)
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_euler(matrix: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] to Euler XYZ angles [..., 3] in radians.

    The inverse of `euler_to_matrix` for |ry| < pi/2. At |ry| = pi/2 only rz -+ rx is
    determined; rx = 0 is chosen there.
    """
    matrix = np.asarray(matrix, np.float64)
    cosine = np.hypot(matrix[..., 0, 0], matrix[..., 1, 0])
    regular = cosine > 1e-9
    rx = np.where(regular, np.arctan2(matrix[..., 2, 1], matrix[..., 2, 2]), 0.0)
    ry = np.arctan2(-matrix[..., 2, 0], cosine)
    rz = np.where(
        regular,
        np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0]),
        np.arctan2(-matrix[..., 0, 1], matrix[..., 1, 1]),
    )
    return np.stack([rx, ry, rz], axis=-1)
