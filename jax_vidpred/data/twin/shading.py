"""How much light leaves a surface point towards the camera: floor, rubber, metal.

Points and directions are float32 [3, m], component first. Radiance is linear, 1 =
white. Dot products are written out: a BLAS sum may depend on how many points come
along, and a pixel must not.
"""

import numpy as np
from numpy.polynomial import chebyshev

from jax_vidpred.data.twin import look
from jax_vidpred.data.twin.scene import FLOOR, SIZES, Scene

# Radius of the rounded edges, world units.
BEVELS = {"sphere": 0.0, "cube": 0.03, "cylinder": 0.012}
_LAMPS = range(len(look.LAMP_POSITION))
_BEHIND = 1e-4  # share of a lamp's ray: nothing nearer to the point shades it


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
    scene: Scene, points: np.ndarray, lamp: int, samples: int
) -> np.ndarray:
    """Share of a lamp that each of the points [3, m] sees: float32 [m] in [0, 1]."""
    points = points.T.astype(np.float64)
    visible = np.zeros(len(points), np.float32)
    for position in lamp_points(lamp, samples):
        index, distance, _ = scene.cast(position, points - position)
        visible += (index == FLOOR) | (distance > 1 - _BEHIND)
    return visible / np.float32(samples**2)


def _lamp_ray(points: np.ndarray, lamp: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [3, m] to a lamp's centre and the distance [m]."""
    towards = look.LAMP_POSITION[lamp].astype(np.float32)[:, None] - points
    distance = np.sqrt(dot(towards, towards))
    return towards / distance, distance


def floor_light(points: np.ndarray, visibility: np.ndarray | None = None) -> np.ndarray:
    """Light [m] of the lamps on points of the floor; the rest of the light is 1.

    Args:
      visibility: [lamps, m], how much of each lamp is seen; all of it when None.
    """
    total = np.zeros(points.shape[1], np.float32)
    for lamp in _LAMPS:
        towards, distance = _lamp_ray(points, lamp)
        light = np.float32(look.LAMP_POWER[lamp]) * towards[2] / distance**2
        total += light if visibility is None else light * visibility[lamp]
    return total


def shadow(points: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """What is left [m] of the floor's radiance when lamps are partly hidden."""
    return (1 + floor_light(points, visibility)) / (1 + floor_light(points))


def rubber_lamps(points: np.ndarray, normal: np.ndarray, lamp: int) -> np.ndarray:
    """Light [m] of one unhidden lamp on a surface; 0 where it faces away."""
    towards, distance = _lamp_ray(points, lamp)
    power = np.float32(look.LAMP_POWER[lamp])
    return power * np.maximum(dot(towards, normal), 0) / distance**2


def rubber(normal: np.ndarray, lamps: np.ndarray) -> np.ndarray:
    """Radiance over reflectance [3 channels, m] of rubber under light [lamps, m]."""
    ambient = look.RUBBER_AMBIENT.astype(np.float32)
    weights = look.RUBBER_LAMPS.astype(np.float32)
    return np.stack(
        [
            a[0] + dot(a[1:], normal) + dot(w, lamps)
            for a, w in zip(ambient, weights, strict=True)
        ]
    )


def metal(points: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Radiance over reflectance [m] of metal.

    Other objects and their shadows are not mirrored, so it depends on no other object.

    Args:
      points: [3, m] on the surface.
      mirrored: [3, m] unit directions into which the view is mirrored there.
    """
    # Where the mirrored ray ends on the floor; far away if it does not go down.
    below = points - mirrored * (points[2] / np.minimum(mirrored[2], -0.02))
    floor = look.METAL_FLOOR[0] + look.METAL_FLOOR[1] * floor_light(below)
    a, *b = look.METAL_SKY
    sky = np.maximum(a + dot(b, mirrored), 0) + _glow(mirrored)
    for lamp in _LAMPS:
        towards, _ = _lamp_ray(points, lamp)
        angle = np.degrees(np.arccos(np.clip(dot(towards, mirrored), -1, 1)))
        beyond = np.maximum(angle - look.METAL_LAMP_RADIUS[lamp], 0)
        sky += look.METAL_LAMPS[lamp] * np.exp(-beyond / look.METAL_LAMP_ANGLE)
        sky += look.METAL_HALOS[lamp] * np.exp(-angle / look.METAL_HALO_ANGLE)
    above = _step(mirrored[2] / look.METAL_HORIZON)
    return floor + above * (sky - floor)


def _glow(mirrored: np.ndarray) -> np.ndarray:
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
    up, side = cosine * up + sine * side, cosine * side - sine * up
    first, second = (
        dot(axis.astype(np.float32), mirrored) / radius
        for axis, radius in zip((up, side), look.METAL_GLOW_RADII, strict=True)
    )
    squared = first**2 + second**2
    core, softness, halo = look.METAL_GLOW
    glow = core * _step((1 - np.sqrt(squared)) / softness) + halo * np.exp(-squared / 4)
    return np.where(dot(centre.astype(np.float32), mirrored) > 0, glow, 0)


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
