"""Annotated objects as MuJoCo geoms, placed frame by frame and hit by rays in C.

MuJoCo is used as a ray caster only: no physics step, no OpenGL, no display. The floor
is no geom: every ray of the CLEVRER camera that hits no object meets z = 0.
"""

import mujoco
import numpy as np

from jax_vidpred.data.schema import Annotation
from jax_vidpred.ops import geometry

RADIUS = 0.2  # nominal, of every shape: the height at which annotated centres rest
# As seen in the official videos (fitted to 0.001): radius, or half of edge and height.
SIZES = {"sphere": 0.2, "cube": 0.1905, "cylinder": 0.1965}
FLOOR = 255  # what `Scene.cast` calls a ray that hits no object

_GEOMS = {
    "sphere": 'type="sphere" size="{0}"',
    "cube": 'type="box" size="{0} {0} {0}"',
    # MuJoCo's cylinder stands on z, that of the annotations on its local y.
    "cylinder": 'type="cylinder" size="{0} {0}" euler="90 0 0"',
}
_REACH = {
    "sphere": SIZES["sphere"],
    "cube": np.sqrt(3) * SIZES["cube"],
    "cylinder": np.sqrt(2) * SIZES["cylinder"],
}
_CORNERS = RADIUS * np.array(
    [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64
)
_NEAR = 0.1  # what reaches closer to the camera's plane than this is not projected


class Scene:
    """The objects of one video; `set_frame` places them, `cast` shoots rays at them."""

    def __init__(self, annotation: Annotation):
        bodies = "".join(
            f'<body mocap="true"><geom {_GEOMS[shape].format(SIZES[shape])}/></body>'
            for _, _, shape in annotation.properties
        )
        self._model = mujoco.MjModel.from_xml_string(
            f"<mujoco><worldbody>{bodies}</worldbody></mujoco>"
        )
        self._data = mujoco.MjData(self._model)
        self.location = annotation.location
        self.rotation = geometry.euler_to_matrix(annotation.orientation)
        matrices = self.rotation.reshape(-1, 9)
        quaternions = np.empty((len(matrices), 4))
        for quaternion, matrix in zip(quaternions, matrices, strict=True):
            mujoco.mju_mat2Quat(quaternion, matrix)
        shapes = [shape for _, _, shape in annotation.properties]
        # [n] radii of balls around the objects.
        self.reach = np.array([_REACH[shape] for shape in shapes], np.float32)
        self._quaternion = quaternions.reshape(*self.location.shape[:2], 4)

    def set_frame(self, frame: int) -> None:
        """Moves every object to its pose in this frame."""
        self.centres = self.location[frame]
        self._data.mocap_pos[:] = self.location[frame]
        self._data.mocap_quat[:] = self._quaternion[frame]
        mujoco.mj_kinematics(self._model, self._data)

    def cast(
        self, origin: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First object along each ray.

        Args:
          origin: [3], directions: [m, 3], world units, of any length.

        Returns:
          index: uint8 [m] of the object, FLOOR where none is hit.
          distance: float64 [m] in lengths of the direction, -1 where none is hit.
          normal: float64 [m, 3] outward unit normal, 0 where none is hit.
        """
        normal = np.empty((len(directions), 3))
        index, distance = self._cast(origin, directions, normal.reshape(-1))
        return index.astype(np.uint8), distance, normal

    def hides(
        self, origin: np.ndarray, targets: np.ndarray, own: np.ndarray | None = None
    ) -> np.ndarray:
        """bool [m]: an object stands between the origin [3] and the target [m, 3].

        own: [m], the object that a target lies on, which does not count.
        """
        index, distance = self._cast(origin, targets - origin, None)
        hidden = (index >= 0) & (distance < 1)
        return hidden if own is None else hidden & (index != own)

    def _cast(self, origin, directions, normal):
        count = len(directions)
        index, distance = np.empty(count, np.int32), np.empty(count)
        if count:
            mujoco.mj_multiRay(
                self._model,
                self._data,
                origin,
                np.ascontiguousarray(directions, np.float64).reshape(-1),
                None,
                True,
                -1,
                index,
                distance,
                normal,
                count,
                mujoco.mjMAXVAL,
            )
        return index, distance


def corners(annotation: Annotation) -> np.ndarray:
    """Boxes around the objects: world corners [t, n, 8, 3].

    A sphere's box is turned to the camera, the others' boxes turn with the object.
    """
    rotation = geometry.euler_to_matrix(annotation.orientation)
    for k, (_, _, shape) in enumerate(annotation.properties):
        if shape == "sphere":
            rotation[:, k] = geometry.WORLD_TO_CAMERA.T
    turned = np.einsum("tnij,cj->tnci", rotation, _CORNERS)
    return annotation.location[:, :, None] + turned


def pixel_boxes(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels that may see the hull of some points.

    Args:
      points: [..., p, 3] world units.

    Returns:
      int [..., 4]: top, left, bottom, right (the last two exclusive), inside the
      picture; bottom <= top or right <= left where nothing is seen. The whole picture
      where the points reach through the camera's plane.
    """
    uv, depth = geometry.project(points, height, width)
    size = np.array([width, height])
    near = depth < _NEAR
    uv = np.clip(np.where(near[..., None], 0, uv), -1, size + 1)
    left, top = np.moveaxis(np.floor(uv.min(-2)), -1, 0)
    right, bottom = np.moveaxis(np.ceil(uv.max(-2)), -1, 0)
    boxes = np.stack([top, left, bottom, right], -1)
    boxes = np.clip(boxes, 0, [height, width, height, width])
    boxes[near.any(-1)] = [0, 0, height, width]
    boxes[near.all(-1)] = 0
    return boxes.astype(int)


def box_mask(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [height, width]: pixels inside any of the boxes [m, 4]."""
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask
