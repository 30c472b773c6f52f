"""The names, shapes and value ranges of everything that travels from files to models.

A *batch* is a flat dict of arrays. This module is the only place that spells its keys.
"""

import dataclasses
import json
import operator
import pathlib

import numpy as np

VIDEO = "video"  # [b, t, h, w, 3] uint8 on the wire, float32 in [0, 1] inside a step
MASK = "mask"  # [b] bool, False marks the padding of a last batch
FLOW = "flow"  # [b, t-1, gh, gw, 2] grid pixels (x right, y down); lives on frame t+1
VISIBLE = "visible"  # [b, t-1, gh, gw, 1] in [0, 1]; 1 = content is found in frame t
SEGMENTS = "segments"  # [b, t, h, w] uint8; 0 = floor, k + 1 = object k
LABEL = "label"  # [b, t, h, w, 3] uint8; a picture of what is to be seen, as a pose
STATE = "state"  # [b, t, n, d] float32, the columns named by STATE_FEATURES
PRESENT = "present"  # [b, t, n] bool; True where the object exists and is in view
COLLISION = "collision"  # [b, t-1] float32; number of collisions between t and t+1
PAIRS = "pairs"  # [b, t-1, n, n] bool; who first touches whom between t and t+1
LATENT = "latent"  # [b, t, gh, gw, c] float32; what a frozen first stage makes of it
VIDEO_ID = "video_id"  # [b] int32
START = "start"  # [b] int32, the raw frame that the clip starts with
# Added by the training step:
ROW = "row"  # [b] int32, number of the example in the batch of all devices

STATE_FEATURES = ("x", "y", "vx", "vy")  # world units; world units per simulated second
MAX_OBJECTS = 6

COLORS = ("gray", "red", "blue", "green", "brown", "cyan", "purple", "yellow")
MATERIALS = ("rubber", "metal")
SHAPES = ("cube", "sphere", "cylinder")

FRAME_SECONDS = 0.028  # simulated seconds between two frames (the file plays at 25 fps)
NUM_FRAMES = 128
FRAMES_PER_SECOND = 25  # of the mp4 file
HEIGHT, WIDTH = 320, 480

# What an official annotation stays far below: 0.4 MB a file, 30 world units a second.
MAX_FILE = 64 << 20  # bytes
MAX_VALUE = 10_000

# The id of a video alone determines its split.
SPLIT_STARTS = {"train": 0, "validation": 10_000, "test": 15_000}


def split_of(video_id: int) -> str:
    """Name of the split that holds `video_id`."""
    return max(
        (s for s in SPLIT_STARTS if SPLIT_STARTS[s] <= video_id),
        key=SPLIT_STARTS.get,
    )


class DataError(ValueError):
    """Data that cannot be used; the message says what, why and how to mend it."""


@dataclasses.dataclass(frozen=True)
class Collision:
    """Two objects touch for the first time."""

    frame: int
    objects: tuple[int, int]
    location: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Poses of every object in every frame of one video: the official JSON as arrays.

    Attributes:
      video_id: number of the video; it determines the split.
      properties: one (color, material, shape) per object; unique within a video.
      location: [t, n, 3] float64, world units; objects rest at z = 0.2.
      orientation: [t, n, 3] Euler XYZ angles, radians. A cylinder's own axis is its
        local y, so rx = pi/2 stands it upright.
      velocity: [t, n, 3] world units per simulated second.
      angular_velocity: [t, n, 3] radians per simulated second.
      in_view: [t, n] bool, any part of the object is inside the picture.
      collisions: in order of time.
    """

    video_id: int
    properties: tuple[tuple[str, str, str], ...]
    location: np.ndarray
    orientation: np.ndarray
    velocity: np.ndarray
    angular_velocity: np.ndarray
    in_view: np.ndarray
    collisions: tuple[Collision, ...] = ()

    @property
    def num_frames(self) -> int:
        return self.location.shape[0]

    @property
    def num_objects(self) -> int:
        return self.location.shape[1]

    def to_json(self) -> str:
        """The official annotation JSON, every key of it, 4 decimals as there."""

        def rounded(row):
            return [round(float(value), 4) for value in row]

        def moving_object(t, k):
            return {
                "object_id": k,
                "location": rounded(self.location[t, k]),
                "orientation": rounded(self.orientation[t, k]),
                "velocity": rounded(self.velocity[t, k]),
                "angular_velocity": rounded(self.angular_velocity[t, k]),
                "inside_camera_view": bool(self.in_view[t, k]),
            }

        n = range(self.num_objects)
        return json.dumps(
            {
                "scene_index": self.video_id,
                "video_filename": f"video_{self.video_id:05d}.mp4",
                "object_property": [
                    dict(object_id=k, color=c, material=m, shape=s)
                    for k, (c, m, s) in enumerate(self.properties)
                ],
                "motion_trajectory": [
                    dict(frame_id=t, objects=[moving_object(t, k) for k in n])
                    for t in range(self.num_frames)
                ],
                "collision": [
                    dict(
                        object_ids=list(c.objects),
                        frame_id=c.frame,
                        location=rounded(c.location),
                    )
                    for c in self.collisions
                ],
            }
        )

    @classmethod
    def from_json(cls, path: str | pathlib.Path) -> "Annotation":
        """Reads an official annotation file.

        Raises:
          DataError: the file is no JSON, lacks what the official schema has, or has
            numbers in it that mean nothing.
        """
        try:
            if pathlib.Path(path).stat().st_size > MAX_FILE:
                raise ValueError(f"larger than {MAX_FILE >> 20} MiB")
            return cls._from_dict(json.loads(pathlib.Path(path).read_text()))
        except (
            *(OSError, LookupError, TypeError, ValueError, AttributeError),
            *(OverflowError, RecursionError),
        ) as error:
            raise DataError(
                f"{path}: not an official CLEVRER annotation"
                f" ({type(error).__name__}: {error}); download it again or leave it out"
            ) from error

    @classmethod
    def _from_dict(cls, raw: dict) -> "Annotation":
        frames = [frame["objects"] for frame in raw["motion_trajectory"]]
        properties = tuple(
            (o["color"], o["material"], o["shape"]) for o in raw["object_property"]
        )
        if [f["frame_id"] for f in raw["motion_trajectory"]] != [*range(len(frames))]:
            raise ValueError("motion_trajectory is not in frame order")
        numbers = [*range(len(properties))]
        for row in (raw["object_property"], *frames):
            if [o["object_id"] for o in row] != numbers:
                raise ValueError("objects are not those of object_property, in order")
        for one in properties:
            for name, names in zip(one, (COLORS, MATERIALS, SHAPES), strict=True):
                if name not in names:
                    raise ValueError(f"{name!r:.40} is none of {', '.join(names)}")

        def column(key, *shape, kinds="iuf"):
            array = np.array([[o[key] for o in row] for row in frames])
            wanted = (len(frames), len(numbers), *shape)
            if array.size == 0 and 0 in wanted:
                array = np.zeros(wanted, "f" if kinds != "b" else "b")
            if array.shape != wanted or array.dtype.kind not in kinds:
                raise ValueError(f"{key} is no list of {wanted} values")
            if kinds == "iuf" and not (np.abs(array) <= MAX_VALUE).all():
                raise ValueError(f"{key} has values beyond {MAX_VALUE}")
            return array.astype(bool if kinds == "b" else np.float64)

        def collision(one):
            first, second = map(operator.index, one["object_ids"])
            frame = operator.index(one["frame_id"])
            if first == second or not {first, second} <= {*numbers}:
                raise ValueError(f"objects {first} and {second} collide")
            if not 0 <= frame <= MAX_VALUE:
                raise ValueError(f"objects collide in frame {frame}")
            x, y, z = map(float, one["location"])
            return Collision(frame, (first, second), (x, y, z))

        return cls(
            video_id=operator.index(raw["scene_index"]),
            properties=properties,
            location=column("location", 3),
            orientation=column("orientation", 3),
            velocity=column("velocity", 3),
            angular_velocity=column("angular_velocity", 3),
            in_view=column("inside_camera_view", kinds="b"),
            collisions=tuple(
                sorted(map(collision, raw["collision"]), key=lambda one: one.frame)
            ),
        )
