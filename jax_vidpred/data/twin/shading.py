"""How much light leaves a surface point towards the camera: floor, rubber, metal.

Points and directions are float32 [3, m], component first. Radiance is linear, 1 =
white. Dot products are written out: a BLAS sum may depend on how many points come
along, and a pixel must not.
"""

import functools

import numpy as np
from numpy.polynomial import chebyshev

from jax_vidpred.data.twin import look
from jax_vidpred.data.twin.scene import SIZES, Scene

# Radius of the rounded edges, world units.
_INNER = 0.19  # radius of a ball inside every shape
BEVELS = {"sphere": 0.0, "cube": 0.03, "cylinder": 0.012}
LAMPS = range(len(look.LAMP_POSITION))


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum over the first axis of a * b."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def encode(radiance: np.ndarray) -> np.ndarray:
    """Linear radiance to display values 0..255 (the sRGB curve), clipped."""
    radiance = np.clip(radiance, 0, 1)
    curve = 1.055 * np.power(radiance, np.float32(1 / 2.4)) - 0.055
    return 255 * np.where(radiance <= 0.0031308, 12.92 * radiance, curve)


def decode(display: np.ndarray) -> np.ndarray:
    """Display values 0..255 to linear radiance: the inverse of `encode`."""
    display = display / 255
    curve = ((display + 0.055) / 1.055) ** 2.4
    return np.where(display <= 0.04045, display / 12.92, curve)


def floor_radiance(height: int, width: int) -> np.ndarray:
    """The floor without objects: float32 [height, width, 3]."""
    x = (np.arange(width) + 0.5) * 2 / width - 1
    y = (np.arange(height) + 0.5) * 2 / height - 1
    channels = []
    for rows in look.FLOOR:
        coefficients = np.zeros((len(rows), len(rows)))
        for p, row in enumerate(rows):
            coefficients[p, : len(row)] = row
        channels.append(chebyshev.chebgrid2d(x, y, coefficients).T)
    return decode(np.stack(channels, -1)).astype(np.float32)


@functools.cache
def lamp_points(lamp: int, samples: int) -> np.ndarray:
    """Points [samples**2, 3] spread over a lamp; one sample means its centre."""
    position = look.LAMP_POSITION[lamp]
    axis = np.cross([0, 0, 1], position)
    axis /= np.linalg.norm(axis)
    other = np.cross(position, axis) / np.linalg.norm(position)
    steps = look.LAMP_HALF_EDGE[lamp] * ((np.arange(samples) + 0.5) / samples * 2 - 1)
    offsets = steps[:, None, None] * axis + steps[None, :, None] * other
    return position + offsets.reshape(-1, 3)


def lamp_visibility(
    scene: Scene,
    points: np.ndarray,
    lamp: int,
    samples: int,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Share of a lamp that each of the points [3, m] sees: float32 [m] in [0, 1].

    Rays to samples x samples points of the lamp are cast only for points in or near
    a penumbra: balls in and around the objects decide the rest.

    Args:
      own: [m], the object that a point lies on, which does not count.
    """
    visible = np.ones(points.shape[1], np.float32)
    towards, distance = _lamp_ray(points, lamp)
    centre = (scene.centres - look.LAMP_POSITION[lamp]).astype(np.float32)
    # How far along the ray from the lamp, and how far beside it, each object lies.
    along = -(
        centre[:, :1] * towards[0]
        + centre[:, 1:2] * towards[1]
        + centre[:, 2:] * towards[2]
    )
    beside = np.sqrt(np.maximum((centre**2).sum(1)[:, None] - along**2, 0))
    if own is not None:
        beside[own, np.arange(len(own))] = np.inf
    # Rays to the lamp's other points pass the object this much to the side.
    half = np.float32(np.sqrt(2) * look.LAMP_HALF_EDGE[lamp] * (1 - 1 / samples))
    spread = half * np.maximum(1 - along / distance, 0) + np.float32(0.005)
    dark = ((beside < _INNER - spread) & (along < distance)).any(0)
    unsure = (beside < scene.reach[:, None] + spread).any(0) & ~dark
    visible[dark] = 0
    unsure = np.flatnonzero(unsure)
    if len(unsure):
        targets = np.ascontiguousarray(points[:, unsure].T, np.float64)
        owner = None if own is None else own[unsure]
        hidden = np.zeros(len(unsure), np.float32)
        for position in lamp_points(lamp, samples):
            hidden += scene.hides(position, targets, owner)
        visible[unsure] = 1 - hidden / np.float32(samples**2)
    return visible


def _lamp_ray(points: np.ndarray, lamp: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [3, m] to a lamp's centre and the distance [m]."""
    towards = look.LAMP_POSITION[lamp].astype(np.float32)[:, None] - points
    distance = np.sqrt(dot(towards, towards))
    return towards / distance, distance


def floor_lamps(points: np.ndarray) -> np.ndarray:
    """Light [lamps, m] of each unhidden lamp on points [3, m] of the floor."""
    lights = []
    for lamp in LAMPS:
        towards, distance = _lamp_ray(points, lamp)
        lights.append(np.float32(look.LAMP_POWER[lamp]) * towards[2] / distance**2)
    return np.stack(lights)


def lamp_shares(points: np.ndarray) -> np.ndarray:
    """Share [lamps, m] of each lamp in all light on points [3, m] of the floor."""
    lamps = floor_lamps(points)
    return lamps / (look.AMBIENT + lamps.sum(0))


def bounce(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Light [m] that an object at centre [3] of reflectance 1 throws on the floor.

    Relative to the floor's radiance; 0 from look.BOUNCE_REACH on.
    """
    offset = points - centre.astype(np.float32)[:, None]
    near = dot(offset, offset) ** np.float32(-1.5)
    return look.BOUNCE * np.maximum(near - np.float32(look.BOUNCE_REACH**-3), 0)


def rubber_lamps(points: np.ndarray, normal: np.ndarray, lamp: int) -> np.ndarray:
    """Light [m] of one unhidden lamp on a surface; 0 where it faces away."""
    towards, distance = _lamp_ray(points, lamp)
    power = np.float32(look.LAMP_POWER[lamp])
    return power * np.maximum(dot(towards, normal), 0) / distance**2


def rubber(normal: np.ndarray, lamps: np.ndarray) -> np.ndarray:
    """Radiance over reflectance [3 channels, m] of rubber under light [lamps, m]."""
    channels = []
    for a, weights in zip(look.RUBBER_AMBIENT, look.RUBBER_LAMPS, strict=True):
        radiance = a[0] + dot(a[1:], normal)
        for weight, light in zip(weights, lamps, strict=True):
            radiance += weight * light
        channels.append(radiance)
    return np.stack(channels)


def metal(points: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Radiance over reflectance [m] of metal.

    Other objects and their shadows are not mirrored, so it depends on no other object.

    Args:
      points: [3, m] on the surface.
      mirrored: [3, m] unit directions into which the view is mirrored there.
    """
    # Where the mirrored ray ends on the floor; far away if it does not go down.
    below = points - mirrored * (points[2] / np.minimum(mirrored[2], -0.02))
    floor = look.METAL_FLOOR[0] + look.METAL_FLOOR[1] * floor_lamps(below).sum(0)
    a, *b = look.METAL_SKY
    sky = np.maximum(a + dot(b, mirrored), 0) + _glow(mirrored)
    lamps = zip(LAMPS, look.METAL_LAMPS, look.METAL_HALOS, strict=False)
    for lamp, (height, radius, softness), halo in lamps:
        towards, _ = _lamp_ray(points, lamp)
        angle = np.degrees(np.arccos(np.clip(dot(towards, mirrored), -1, 1)))
        sky += height * _step((radius - angle) / softness)
        sky += halo * np.exp(-angle / look.METAL_HALO_ANGLE)
    above = _step(mirrored[2] / look.METAL_HORIZON)
    return floor + above * (sky - floor)


def _glow_axes() -> np.ndarray:
    """Direction of the large lamp and the axes of its ellipse: float32 [3, 3]."""
    azimuth, elevation = np.radians(look.METAL_GLOW_DIRECTION)
    centre = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    up = np.array([0, 0, 1]) - centre * centre[2]
    up /= np.linalg.norm(up)
    side = np.cross(centre, up)
    cosine, sine = np.cos(look.METAL_GLOW_ROTATION), np.sin(look.METAL_GLOW_ROTATION)
    axes = [centre, cosine * up + sine * side, cosine * side - sine * up]
    return np.array(axes, np.float32)


_GLOW_AXES = _glow_axes()


def _glow(mirrored: np.ndarray) -> np.ndarray:
    centre, up, side = _GLOW_AXES
    height, width = look.METAL_GLOW_RADII
    squared = (dot(up, mirrored) / height) ** 2 + (dot(side, mirrored) / width) ** 2
    core, softness, halo = look.METAL_GLOW
    glow = core * _step((1 - np.sqrt(squared)) / softness) + halo * np.exp(-squared / 4)
    return np.where(dot(centre, mirrored) > 0, glow, 0)


def _step(x: np.ndarray) -> np.ndarray:
    """A step from 0 to 1 around 0."""
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def round_edges(local: np.ndarray, normal: np.ndarray, shape: str) -> np.ndarray:
    """Normals [3, m] bent over the rounded edges, in the object's own axes.

    Args:
      local: [3, m] points on the surface, own axes (a cylinder's axis is y).
      normal: [3, m] of the geom with sharp edges; returned as it is for spheres.
    """
    flat = SIZES[shape] - BEVELS[shape]
    if shape == "cube":
        bent = np.sign(local) * np.maximum(np.abs(local) - flat, 0)
    elif shape == "cylinder":
        radius = np.sqrt(local[0] ** 2 + local[2] ** 2)
        outwards = np.maximum(radius - flat, 0) / np.maximum(radius, flat)
        along = np.sign(local[1]) * np.maximum(np.abs(local[1]) - flat, 0)
        bent = np.stack([local[0] * outwards, along, local[2] * outwards])
    else:
        return normal
    length = np.sqrt(dot(bent, bent))
    return np.where(length > 0, bent / np.maximum(length, 1e-6), normal)
