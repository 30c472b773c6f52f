"""The look of CLEVRER in numbers: palette, lamps, floor and how materials reflect.

Every number but the palette was fitted by least squares to four official videos with
annotations (00000, 01000, 02000, 10000); `shading.py` holds the formulas. Radiance is
linear, 1 = white; positions are world units.

* Lamps: positions, sizes and powers from the three shadows that every object throws on
  the floor (residual 3 % of the floor's radiance, which is the noise of the frames).
* Floor: the median picture without objects as a Chebyshev polynomial of degree 7 in
  the picture's coordinates (residual 1.5 grey levels; the frames' own grain is 1.4).
* Rubber: residual 2.8 grey levels; metal: median residual 2.6, larger where it mirrors
  other objects.
"""

import numpy as np

# Reflectance: the palette of CLEVR, which is used as linear RGB. The fits confirm it.
PALETTE = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}

# Key, fill and back lamp: squares that face the origin.
LAMP_POSITION = np.array(
    [[6.46, -2.876, 4.461], [-4.834, -4.222, 3.318], [-1.042, 2.594, 6.06]]
)
LAMP_HALF_EDGE = np.array([0.477, 0.468, 0.601])
# Light on the floor right below, relative to the rest (which throws no shadow) = 1,
# times distance squared.
LAMP_POWER = 50 * np.exp([0.124, -1.218, -0.528])

# Display value 0..255 of the empty floor, red, green, blue: coefficients of
# T_p(x) T_q(y), x and y in -1..1 over the picture, rows p = 0..7, columns q = 0..7 - p.
FLOOR = (
    (
        (130.02, 8.95, -4.66, 3.59, -2.1, 1.07, -0.36, 0.16),
        (-2.04, -0.09, -1.57, -1.07, 3.02, -1.92, 1.22),
        (-1.41, 1.05, -0.72, 0.96, -0.85, 0.68),
        (0.42, -0.74, 1.04, -0.73, 0.29),
        (-0.4, 0.87, -0.42, 0.2),
        (0.2, -0.24, 0.14),
        (-0.01, 0.03),
        (0.01,),
    ),
    (
        (129.62, 8.36, -5.08, 3.56, -2.2, 1.23, -0.49, 0.17),
        (-1.7, 0.38, -1.31, -1.31, 3.04, -2.3, 1.39),
        (-1.33, 1.04, -0.58, 1.12, -0.85, 0.81),
        (0.37, -0.81, 1.07, -0.73, 0.38),
        (-0.48, 0.97, -0.54, 0.22),
        (0.26, -0.35, 0.23),
        (-0.01, 0.02),
        (-0.04,),
    ),
    (
        (128.97, 5.98, -5.07, 4.46, -2.58, 1.47, -0.88, 0.31),
        (-2.48, 1.37, -1.63, -1.87, 4.11, -2.66, 1.7),
        (-1.26, 0.97, -0.95, 1.45, -1.25, 1.09),
        (0.67, -1.22, 1.44, -0.94, 0.44),
        (-0.64, 1.24, -0.73, 0.28),
        (0.25, -0.3, 0.17),
        (0.03, -0.03),
        (-0.01,),
    ),
)

# Rubber, light leaving it over reflectance, per channel: weights of the lamps' light,
# then ambient light as a + b . normal.
RUBBER_LAMPS = np.array(
    [[0.1382, 0.0192, 0.0871], [0.1229, 0.0307, 0.1111], [0.1175, 0.0973, 0.1367]]
)
RUBBER_AMBIENT = np.array(
    [
        [0.1467, 0.0187, -0.0166, 0.0093],
        [0.1348, 0.0308, -0.0214, 0.0082],
        [0.1259, 0.0313, -0.0211, -0.0054],
    ]
)

# Metal mirrors, tinted by its reflectance: the floor (constant, and per unit of the
# lamps' light on the floor), ...
METAL_FLOOR = (0.104, 0.076)
METAL_HORIZON = 0.047  # softness of the edge between floor and sky, in the sine
METAL_SKY = (0.062, -0.058, 0.018, -0.038)  # a + b . direction, at least 0
# ... a large soft light high above the camera's left, seen in the direction
# (azimuth, elevation, both in degrees), ...
METAL_GLOW_DIRECTION = (-24.5, 62.8)
METAL_GLOW_ROTATION = 0.254  # radians
METAL_GLOW_RADII = (0.136, 0.181)
METAL_GLOW = (2.42, 0.036, 0.375)  # core, softness of its edge, halo
# ... and the lamps: peak, falling off by e every so many degrees, plus a halo.
METAL_LAMPS = (16.4, 5.3, 4.1)
METAL_LAMP_ANGLE = 2.0
METAL_LAMP_RADIUS = (0.0, 0.0, 4.8)  # degrees that a lamp stays bright
METAL_HALOS = (0.334, 0.010, 0.135)
METAL_HALO_ANGLE = 16.8
