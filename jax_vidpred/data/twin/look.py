"""The look of CLEVRER in numbers: palette, lamps, floor and how materials reflect.

Every number but the palette was fitted by least squares to four official videos with
annotations (00000, 01000, 02000, 10000); `shading.py` holds the formulas. Radiance is
linear, 1 = white; positions are world units.

* Lamps: positions, sizes and powers from the shadows that every object throws on the
  floor (residual 3 % of the floor's radiance, which is the noise of the frames).
* Floor: the median picture without objects as a Chebyshev polynomial of degree 7 in
  the picture's coordinates (residual 1.5 grey levels; the frames' own grain is 1.4).
* Rubber: residual 2.7 grey levels; metal: median residual 2.9, larger where it mirrors
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

# Key, fill, back lamp and a large one above: squares that face the origin.
LAMP_POSITION = np.array(
    [
        [6.823, -3.054, 4.566],
        [-5.011, -4.307, 3.391],
        [-1.088, 2.696, 5.987],
        [3.435, -1.427, 8.187],
    ]
)
LAMP_HALF_EDGE = np.array([0.391, 0.422, 0.599, 1.172])
# Light on the floor right below times distance squared, and light from elsewhere.
LAMP_POWER = 50 * np.array([1.132, 0.275, 0.571, 1.504])
AMBIENT = 0.092
# Objects throw light back on the floor: share per channel = reflectance * BOUNCE *
# (1 / distance^3 - 1 / BOUNCE_REACH^3) for floor points that near to the centre.
BOUNCE = 0.0047
BOUNCE_REACH = 0.55

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
    [
        [0.1478, 0.0368, 0.0861, 0.0319],
        [0.1309, 0.0521, 0.1099, 0.0334],
        [0.1326, 0.1026, 0.1366, 0.0029],
    ]
)
RUBBER_AMBIENT = np.array(
    [
        [0.1458, 0.0084, -0.0121, -0.0112],
        [0.1320, 0.0222, -0.0169, -0.0118],
        [0.1285, 0.0247, -0.0197, -0.0059],
    ]
)

# Metal mirrors, tinted by its reflectance: the floor (constant, and per unit of the
# lamps' light on the floor), ...
METAL_FLOOR = (0.1489, 0.0343)
METAL_HORIZON = 0.054  # softness of the edge between floor and sky, in the sine
METAL_SKY = (0.0024, -0.117, 0.0615, -0.0727)  # a + b . direction, at least 0
# ... the first three lamps: height, radius and softness of the edge in degrees of a
# step (the back lamp's radius < 0 makes an exponential of it), and a halo, ...
METAL_LAMPS = ((6.74, 3.0, 1.44), (4.13, 3.57, 1.0), (274.6, -8.97, 2.77))
METAL_HALOS = (0.26, 0.084, 0.165)
METAL_HALO_ANGLE = 22.7  # degrees in which a halo falls by e
# ... and the large lamp, which is seen in one direction from everywhere: an ellipse
# (azimuth, elevation in degrees; turn in radians; half axes; core, softness, halo).
METAL_GLOW_DIRECTION = (-24.65, 63.07)
METAL_GLOW_ROTATION = 0.388
METAL_GLOW_RADII = (0.136, 0.16)
METAL_GLOW = (2.32, 0.076, 0.359)
