"""Pictures of annotated scenes: CLEVRER's camera, floor, colours, shadows by rays.

Camera rays find the objects (MuJoCo, in C), rays from points spread over three lamps
find the soft shadows, metal mirrors floor, sky and lamps. Only what may have changed
since the previous frame is cast again; a pixel's value depends on its own frame alone.
"""

from collections.abc import Sequence

import numpy as np

from jax_vidpred.data.schema import Annotation
from jax_vidpred.data.twin import look, shading
from jax_vidpred.data.twin.scene import FLOOR, Scene, box_mask, corners, pixel_boxes
from jax_vidpred.data.twin.shading import LAMPS
from jax_vidpred.ops import geometry

_FLOOR_LAMP_SAMPLES = 3  # points per lamp along each axis, for shadows on the floor
_OBJECT_LAMP_SAMPLES = 2  # the same for shadows that objects throw on objects


class Renderer:
    """Renders annotations at one size.

    Args:
      height, width: of the pictures, which stand for the whole 480x320 picture.
      samples: rays per pixel along each axis.
    """

    def __init__(self, height: int, width: int, samples: int = 2):
        self.height, self.width = height, width
        self._origin, self._directions = geometry.camera_rays(height, width, samples)
        self._floor = shading.floor_radiance(height, width)
        self._centres = self._directions.mean(2)
        # [lamps, height, width]: how much of the floor's light comes from each lamp.
        self._lamp_shares = shading.lamp_shares(
            _floor_points(self._origin, self._centres.reshape(-1, 3).T)
        ).reshape(-1, height, width)

    def render(
        self, annotation: Annotation, frames: Sequence[int] | None = None
    ) -> np.ndarray:
        """Pictures of the given frames (all when None): uint8 [t, height, width, 3]."""
        frames = range(annotation.num_frames) if frames is None else frames
        shot = _Shot(self, annotation)
        video = np.empty((len(frames), self.height, self.width, 3), np.uint8)
        empty = np.rint(shading.encode(self._floor)).astype(np.uint8)
        picture, previous = empty.copy(), None
        for row, frame in zip(video, frames, strict=True):
            mask = shot.changed(frame, previous)
            picture[mask] = empty[mask]
            shot.shade(picture, frame, mask)
            row[:] = picture
            previous = frame
        return video


class _Shot:
    """One video in front of one camera."""

    def __init__(self, renderer: Renderer, annotation: Annotation):
        self.height, self.width = renderer.height, renderer.width
        self._origin, self._directions = renderer._origin, renderer._directions
        self._centres = renderer._centres
        self._floor, self._lamp_shares = renderer._floor, renderer._lamp_shares
        self._scene = Scene(annotation)
        self._shapes = [shape for _, _, shape in annotation.properties]
        self._metal = np.array([m == "metal" for _, m, _ in annotation.properties])
        self._reflectance = np.array(
            [look.PALETTE[color] for color, _, _ in annotation.properties], np.float32
        ).T / np.float32(255)
        self._pose = np.concatenate([annotation.location, annotation.orientation], -1)
        hull = corners(annotation)
        self._boxes = pixel_boxes(hull, self.height, self.width)
        # [t, n, lamp, 4]: pixels that see an object or anything that it may shade.
        outlines = [np.concatenate([hull, _shadow_outline(hull, j)], -2) for j in LAMPS]
        self._shadow_boxes = np.stack(
            [pixel_boxes(outline, self.height, self.width) for outline in outlines], 2
        )
        # [t, n, 4]: pixels that see floor onto which the object throws light.
        self._bounce_boxes = pixel_boxes(
            _bounce_outline(annotation.location), self.height, self.width
        )

    def changed(self, frame: int, previous: int | None) -> np.ndarray:
        """Pixels [height, width] that may differ from the previous frame's.

        Everything when there is no previous frame; else the objects that moved, with
        whatever they may shade or light, before and after.
        """
        if previous is None:
            return np.ones((self.height, self.width), bool)
        moved = (self._pose[frame] != self._pose[previous]).any(-1)
        if not moved.any():
            return np.zeros((self.height, self.width), bool)
        boxes = [self._reach(t)[moved].reshape(-1, 4) for t in (frame, previous)]
        return box_mask(np.concatenate(boxes), self.height, self.width)

    def _reach(self, frame: int) -> np.ndarray:
        """[n, boxes, 4] of the pixels that each object may change."""
        bounce = self._bounce_boxes[frame][:, None]
        return np.concatenate([self._shadow_boxes[frame], bounce], axis=1)

    def shade(self, picture: np.ndarray, frame: int, mask: np.ndarray) -> None:
        """Draws objects and shadows where the mask is; there the floor is drawn."""
        scene, size = self._scene, (self.height, self.width)
        scene.set_frame(frame)
        mask = mask & box_mask(self._reach(frame).reshape(-1, 4), *size)
        pixels = np.flatnonzero(mask)
        if not len(pixels):
            return
        seen = box_mask(self._boxes[frame], *size)[mask]  # pixels that may see objects
        rays = self._directions[mask & box_mask(self._boxes[frame], *size)]
        samples = rays.shape[1]
        rays = rays.reshape(-1, 3)
        index, depth, normal = scene.cast(self._origin, rays)
        hit = index != FLOOR
        owner = np.repeat(np.flatnonzero(seen), samples)
        colors = self._shade_objects(
            frame,
            index[hit],
            rays[hit],
            depth[hit],
            normal[hit],
        )
        count = len(pixels)
        values = np.empty((3, count))
        for channel, color in zip(values, colors, strict=True):
            channel[:] = np.bincount(owner[hit], color, count)

        # One floor point per pixel: the mean of its samples that see the floor.
        view = self._centres[mask].T.copy()
        bare = np.full(count, samples)
        bare[seen] -= np.bincount(owner[hit], minlength=count)[seen]
        mixed = np.flatnonzero((bare > 0) & (bare < samples))
        for axis in range(3):
            total = np.bincount(owner[~hit], rays[~hit, axis], count)
            view[axis, mixed] = total[mixed] / bare[mixed]
        floor = np.flatnonzero(bare)
        radiance = self._shade_floor(frame, pixels[floor], view[:, floor])
        values[:, floor] += shading.encode(radiance) * bare[floor]
        picture.reshape(-1, 3)[pixels] = np.rint(values / samples).T

    def _shade_floor(self, frame, pixels, view):
        """Radiance [3, m] of the floor in some pixels, seen along view [3, m]."""
        points = _floor_points(self._origin, view)
        gain = np.ones((3, len(pixels)), np.float32)
        for lamp in LAMPS:
            visible = shading.lamp_visibility(
                self._scene, points, lamp, _FLOOR_LAMP_SAMPLES
            )
            gain -= self._lamp_shares[lamp].reshape(-1)[pixels] * (1 - visible)
        for centre, reflectance in zip(
            self._scene.location[frame], self._reflectance.T, strict=True
        ):
            gain += reflectance[:, None] * shading.bounce(points, centre)
        return self._floor.reshape(-1, 3)[pixels].T * gain

    def _shade_objects(self, frame, index, rays, depth, normal):
        """Display values [3, m] of the object points hit along rays [m, 3]."""
        points = (self._origin + depth[:, None] * rays).T
        normal = self._rounded_normals(frame, index, points, normal.T)
        points, view = points.astype(np.float32), rays.T.astype(np.float32)
        radiance = self._reflectance[:, index]
        metal = self._metal[index]

        rubber = np.flatnonzero(~metal)
        there, facing = points[:, rubber], normal[:, rubber]
        light = np.stack([shading.rubber_lamps(there, facing, j) for j in LAMPS])
        for lamp in LAMPS:
            lit = np.flatnonzero(light[lamp])
            light[lamp, lit] *= shading.lamp_visibility(
                self._scene,
                there[:, lit],
                lamp,
                _OBJECT_LAMP_SAMPLES,
                own=index[rubber[lit]],
            )
        radiance[:, rubber] *= shading.rubber(facing, light)

        metal = np.flatnonzero(metal)
        there, facing, view = points[:, metal], normal[:, metal], view[:, metal]
        view = view / np.sqrt(shading.dot(view, view))
        mirrored = view - 2 * shading.dot(view, facing) * facing
        radiance[:, metal] *= shading.metal(there, mirrored)
        return shading.encode(radiance)

    def _rounded_normals(self, frame, index, points, normal):
        """World normals [3, m] with the edges of cubes and cylinders rounded."""
        normal = normal.astype(np.float32)
        for k, shape in enumerate(self._shapes):
            mine = np.flatnonzero(index == k)
            if shape == "sphere" or not len(mine):
                continue
            axes = self._scene.rotation[frame, k].astype(np.float32)
            offset = points[:, mine] - self._scene.location[frame, k][:, None]
            local = [shading.dot(axis, offset.astype(np.float32)) for axis in axes.T]
            own = [shading.dot(axis, normal[:, mine]) for axis in axes.T]
            bent = shading.round_edges(np.stack(local), np.stack(own), shape)
            normal[:, mine] = [shading.dot(axis, bent) for axis in axes]
        return normal


def _floor_points(origin: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Where view directions [3, m] from the origin meet the floor: float32 [3, m]."""
    return (origin[:, None] - view * (origin[2] / view[2])).astype(np.float32)


def _shadow_outline(hull: np.ndarray, lamp: int) -> np.ndarray:
    """Floor points [t, n, p, 3] that enclose the shadow of hulls [t, n, c, 3]."""
    centre = look.LAMP_POSITION[lamp]
    # The lamp's corners: two points along each axis lie halfway from its centre.
    lamps = centre + 2 * (shading.lamp_points(lamp, 2) - centre)
    towards = hull[..., None, :] - lamps
    floor = lamps - towards * (lamps[:, 2] / towards[..., 2])[..., None]
    return floor.reshape(*hull.shape[:2], -1, 3)


def _bounce_outline(location: np.ndarray) -> np.ndarray:
    """Floor points [t, n, 4, 3] around the disc onto which objects throw light."""
    reach = look.BOUNCE_REACH
    square = reach * np.array([[x, y, 0] for x in (-1, 1) for y in (-1, 1)])
    return location[:, :, None] * [1, 1, 0] + square
