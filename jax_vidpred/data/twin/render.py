"""Pictures of annotated scenes: CLEVRER's camera, floor, colours and shadows by rays."""

from collections.abc import Sequence

import numpy as np

from jax_vidpred.data.schema import Annotation
from jax_vidpred.data.twin.scene import FLOOR, Scene, box_mask, corners, pixel_boxes
from jax_vidpred.ops import geometry

# Median colours of the objects in the official videos, metal and rubber, 0..255.
_COLORS = {
    "blue": ((40, 53, 91), (60, 79, 128)),
    "brown": ((93, 70, 38), (110, 84, 50)),
    "cyan": ((39, 92, 91), (64, 137, 133)),
    "gray": ((60, 60, 60), (89, 88, 85)),
    "green": ((43, 84, 34), (49, 90, 39)),
    "purple": ((95, 50, 114), (104, 55, 120)),
    "red": ((107, 47, 47), (117, 52, 51)),
    "yellow": ((129, 124, 57), (135, 130, 61)),
}
_LIGHT = np.array([0.3, 0.5, 0.8]) / np.linalg.norm([0.3, 0.5, 0.8])


class Renderer:
    """Renders annotations at one size.

    Args:
      height, width: of the pictures, which stand for the whole 480x320 picture.
      samples: rays per pixel along each axis.
    """

    def __init__(self, height: int, width: int, samples: int = 2):
        self.height, self.width = height, width
        self._origin, self._directions = geometry.camera_rays(height, width, samples)
        v = (np.arange(height) + 0.5) / height
        level = np.interp(v, [0, 0.1, 0.4, 1], [114, 118, 132, 137])
        self._floor = np.repeat(level[:, None, None], width, 1) * np.ones(3)

    def render(
        self, annotation: Annotation, frames: Sequence[int] | None = None
    ) -> np.ndarray:
        """Pictures of the given frames (all when None): uint8 [t, height, width, 3]."""
        frames = range(annotation.num_frames) if frames is None else frames
        scene = Scene(annotation)
        boxes = pixel_boxes(corners(annotation), self.height, self.width)
        colors = np.array(
            [_COLORS[c][m == "rubber"] for c, m, _ in annotation.properties], float
        )
        video = np.empty((len(frames), self.height, self.width, 3), np.uint8)
        for picture, frame in zip(video, frames, strict=True):
            scene.set_frame(frame)
            mask = box_mask(boxes[frame], self.height, self.width)
            rays = self._directions[mask]
            index, _, normal = scene.cast(self._origin, rays.reshape(-1, 3))
            shade = 0.75 + 0.5 * np.clip(normal @ _LIGHT, 0, None)
            floor = np.repeat(self._floor[mask], rays.shape[1], axis=0)
            hit = index != FLOOR
            color = np.where(
                hit[:, None], colors[np.where(hit, index, 0)] * shade[:, None], floor
            )
            values = self._floor.copy()
            values[mask] = color.reshape(*rays.shape[:2], 3).mean(1)
            picture[:] = np.clip(values + 0.5, 0, 255)
        return video
