"""Masks of predicted frames by appearance: objects found again by colour and place.

No network and no flow. What the context shows gives a background, and for each object
its colours, its silhouette, its place and its motion. In a frame, each object is looked
for near the place where its motion leads (nearest to the camera first), and then every
pixel goes to the floor or to the object that explains its colour best. The pixels
decide: an object that fades away or is smeared has few or none.

The same tracker on the true video is the ceiling of what it can measure.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from jax_vidpred.metrics.tracks import silhouette_radius

# The floor may be seen at these multiples of its colour. Shadows are as dark as 0.87
# (1 % of the pixels around objects); gray objects are below 0.78 (95 %).
SHADE = (0.84, 1.15)
# Standard deviation of an object's colour about the nearest colour of its palette, per
# pixel and all channels together; costs are squared distances over twice its square.
COLOUR_SPREAD = 0.07
# Nearer to the floor's colour than this is floor (codec noise: 0.012 at 99.9 %), and
# a colour further than this from all known ones is an object that came later.
FLOOR_DISTANCE, UNKNOWN_DISTANCE = 0.03, 0.25
STRANGE_DISTANCE = 0.15  # a colour further than this from a palette is not its object's
CONTRAST = 1.3  # support in the silhouette over that in a ring around it
PALETTE = 6  # colours per object, from dark to light
# Farthest from where an object is expected, in widths of the picture. Between frames
# of stride 2, its speed changes by less in 99.9 % of all steps.
REACH = 0.08
WAY_COST = 0.15  # share of its pixels that being one radius off the way must bring
SHAPE_COST = 2.0  # of a pixel outside its silhouette; inside it is a gain
# Of a pixel, per square of radii beyond the silhouette; from the limit on it is, with
# SHAPE_COST, more than the floor ever costs.
DISTANCE_COST, DISTANCE_LIMIT = 12.0, 0.8
LARGEST_SCALE = 2.5  # between the context and a frame, by perspective
FOUND_SHARE = 0.1  # of its pixels; with fewer, an object is hidden or has vanished
WHOLE_SHARE = 0.7  # from here on the centroid of its pixels is its place
VELOCITY_GAIN = 0.5  # share of a surprise that is taken for a change of velocity


class _Model(NamedTuple):
    """What the context shows of an object; lengths in pixels."""

    label: int
    palette: Float[np.ndarray, "colours 3"]
    sprite: Float[np.ndarray, "s s"]  # its silhouette, centred
    half: Float[np.ndarray, "2"]  # half of its width and height
    radius: float  # of a ball where the sprite was taken
    centre: Float[np.ndarray, "2"]  # in the last context frame
    velocity: Float[np.ndarray, "2"]  # per frame


class _View(NamedTuple):
    """Where an object is found in a frame."""

    centre: Float[np.ndarray, "2"]
    area: float  # of the silhouette, also beyond the picture
    is_found: bool
    window: tuple[slice, slice]  # rows and columns where it may have pixels
    silhouette: Bool[np.ndarray, "rows columns"]
    cost: Float[np.ndarray, "rows columns"]  # of a pixel, by its place


def track(
    context: Float[np.ndarray, "c h w 3"],
    context_segments: Integer[np.ndarray, "c h w"],
    frames: Float[np.ndarray, "t h w 3"],
) -> Integer[np.ndarray, "t h w"]:
    """Segments of frames that continue a context.

    Args:
      context: in [0, 1], whole pictures of CLEVRER's camera, squashed.
      context_segments: 0 = floor, k + 1 = object k.
      frames: in [0, 1].

    Returns:
      uint8 segments with the labels of the context's last frame; what entered later is
      floor. On true videos (64x64, 6 -> 42 frames of stride 2) the mean IoU by identity
      with the true segments is 0.84 (28 twin clips in which nothing enters, 0.89 in the
      first and 0.81 in the last frame).

    Raises:
      ValueError: the shapes do not fit, or pictures are integers.
    """
    _check(context, context_segments, frames)
    models = _object_models(context, context_segments)
    result = np.zeros(frames.shape[:-1], np.uint8)
    if not models:
        return result
    background = _background(context, context_segments)
    floor_cost, costs, support = _evidence(frames, background, models)
    centres = np.array([model.centre for model in models])
    velocities = np.array([model.velocity for model in models])
    for t, (segments, lowest) in enumerate(zip(result, floor_cost, strict=True)):
        guesses = centres + velocities
        centres = guesses.copy()  # what is not found goes on as it went
        free = np.ones_like(lowest)
        views = {}
        for k in np.argsort(-guesses[:, 1]):  # lower in the picture is nearer
            view = _locate(models[k], guesses[k], support[t, k] * free)
            if view is None or not view.is_found:
                continue
            views[k] = view
            cost = costs[t, k][view.window] + view.cost
            is_better = cost < lowest[view.window]
            lowest[view.window][is_better] = cost[is_better]
            segments[view.window][is_better] = models[k].label
            is_taken = view.silhouette & (support[t, k][view.window] > 0.5)
            free[view.window][is_taken] = 0
        for k, view in views.items():
            centres[k] = _refined(view, segments[view.window] == models[k].label)
            velocities[k] += VELOCITY_GAIN * (centres[k] - guesses[k])
    return result


def _check(context, context_segments, frames):
    if (
        context.shape[:-1] != context_segments.shape
        or frames.shape[1:] != context.shape[1:]
        or frames.ndim != 4
        or not len(context)
    ):
        raise ValueError(
            f"context {context.shape}, its segments {context_segments.shape} and frames"
            f" {frames.shape}; wanted [c, h, w, 3], [c, h, w] and [t, h, w, 3], c > 0"
        )
    for pictures in (context, frames):
        if not np.issubdtype(pictures.dtype, np.floating):
            raise ValueError(
                f"pictures of {pictures.dtype}; wanted values in [0, 1], divide by 255"
            )


def _background(context, segments):
    """[h, w, 3] floor: the median where it was seen, a quadratic surface elsewhere."""
    objects = ndimage.binary_dilation(segments > 0, np.ones((1, 3, 3)))
    seen = ~objects.all(0)
    height, width = seen.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    surface = np.stack([x**0, x, y, x * x, x * y, y * y], -1)
    median = np.nanmedian(np.where(objects[..., None], np.nan, context)[:, seen], 0)
    known = surface[seen]  # by its normal equations: small, and well conditioned
    smooth = surface @ np.linalg.lstsq(known.T @ known, known.T @ median, rcond=None)[0]
    smooth[seen] = median
    return smooth.astype(np.float32)


def _object_models(context, segments):
    """Models of the objects that the last frame shows."""
    found = []
    for label in np.unique(segments[-1][segments[-1] > 0]):
        masks = segments == label
        frames = np.flatnonzero(masks.any((1, 2)))
        views = [_place(masks[i]) for i in frames]
        # The view that hides least of it: the largest for its distance.
        whole = [
            masks[i].sum() / radius.prod()
            for i, (_, radius) in zip(frames, views, strict=True)
        ]
        best = int(np.argmax(whole))
        centre, radius = views[best]
        sprite, half = _sprite(masks[frames[best]], centre, radius)
        path = np.array([centre for centre, _ in views[-3:]])
        steps = np.diff(frames[-3:])
        found.append(
            _Model(
                label=label,
                palette=_palette(context, masks),
                sprite=sprite,
                half=half,
                radius=radius[0],
                centre=path[-1],
                velocity=(path[-1] - path[0]) / max(steps.sum(), 1),
            )
        )
    return found


def _palette(context, masks):
    """Mean colours [<= PALETTE, 3] of equal parts of its pixels, from dark to light."""
    inner = masks & ndimage.binary_erosion(masks, np.ones((1, 3, 3)))
    pixels = context[inner if inner.sum() >= PALETTE else masks]
    pixels = pixels[np.argsort(pixels.sum(-1))]
    parts = np.array_split(pixels, min(PALETTE, len(pixels)))
    return np.stack([part.mean(0) for part in parts]).astype(np.float32)


def _place(mask):
    """Centre [2] of an object, and the radius [2] of a ball there.

    What the picture's border cuts has its centre one radius from the edge that is seen.
    """
    size = np.array(mask.shape[::-1])
    rows, columns = np.nonzero(mask)
    centre = np.array([columns.mean(), rows.mean()]) + 0.5
    low = np.array([columns.min(), rows.min()])
    high = np.array([columns.max(), rows.max()]) + 1
    cut_low, cut_high = low == 0, high == size
    is_cut = bool((cut_low | cut_high).any())
    radius = silhouette_radius(centre, *mask.shape)
    for _ in range(3 if is_cut else 0):  # the radius depends on the place
        centre = (low + high) / 2
        centre = np.where(cut_high & ~cut_low, low + radius, centre)
        centre = np.where(cut_low & ~cut_high, high - radius, centre)
        radius = silhouette_radius(centre, *mask.shape)
    return centre, radius


def _sprite(mask, centre, radius):
    """Silhouette [s, s] about the centre, and half of its width and height.

    A cut or half-hidden one is filled up with the ellipse of a ball; every object is at
    least as large.
    """
    reach = int(np.ceil(2 * radius.max())) + 1
    offsets = np.arange(-reach, reach + 1)
    columns, rows = np.floor(centre[:, None] + offsets).astype(int)
    sprite = _crop(mask, rows, columns)
    ball = (offsets / radius[0]) ** 2 + ((offsets / radius[1]) ** 2)[:, None] < 1
    if sprite.sum() < 0.8 * ball.sum():
        sprite |= ball
    half = [(np.ptp(np.flatnonzero(sprite.any(axis))) + 1) / 2 for axis in (0, 1)]
    return sprite, np.array(half)


def _evidence(frames, background, models):
    """How well the colours of each pixel fit.

    Returns:
      floor_cost: [t, h, w].
      costs: [t, objects, h, w], infinite where the floor is certain.
      support: [t, objects, h, w] in [0, 1], 1 where no other label fits better.
    """
    frames = frames.astype(np.float32)
    shade = (frames * background).sum(-1) / np.maximum(
        (background * background).sum(-1), 1e-6
    )
    shade = np.clip(shade, *SHADE)[..., None]
    floor = np.square(frames - shade * background).sum(-1)
    front = floor > FLOOR_DISTANCE**2
    pixels = frames[front]
    squares = (pixels * pixels).sum(-1, keepdims=True)
    distances = np.stack(
        [
            (squares - 2 * pixels @ m.palette.T + (m.palette**2).sum(-1)).min(-1)
            for m in models
        ]
    )
    best = np.minimum(distances.min(0), floor[front])
    scale = 2 * COLOUR_SPREAD**2
    # What is near to none of the palettes supports nobody.
    known = distances <= STRANGE_DISTANCE**2
    fits = np.where(known, np.exp((best - distances - best / 4) / scale), 0.0)
    costs = np.full((len(models), *floor.shape), np.inf, np.float32)
    costs[:, front] = distances / scale
    support = np.zeros_like(costs)
    support[:, front] = fits
    floor_cost = np.minimum(floor, UNKNOWN_DISTANCE**2) / scale
    return floor_cost, costs.swapaxes(0, 1), support.swapaxes(0, 1)


def _locate(model, guess, support):
    """Looks for an object near a guess; None if that is outside the picture.

    The silhouette is shifted by whole pixels; where the mean support in it is largest,
    less a cost for leaving the way, there the object is.
    """
    height, width = support.shape
    scale = silhouette_radius(guess, height, width)[0] / model.radius
    scale = np.clip(scale, 1 / LARGEST_SCALE, LARGEST_SCALE)
    half = model.half * scale
    if (guess < -half).any() or (guess > (width, height) + half).any():
        return None
    cell = np.floor(guess).astype(int)
    size, reach = int(np.ceil(half.max())) + 1, round(REACH * width)
    offsets = np.arange(-size, size + 1)
    in_sprite = (offsets + (cell + 0.5 - guess)[:, None]) / scale
    columns, rows = np.floor(in_sprite + len(model.sprite) / 2).astype(int)
    silhouette = _crop(model.sprite, rows, columns)

    around = np.arange(-size - reach, size + reach + 1)
    window = _crop(support, cell[1] + around, cell[0] + around)
    places = np.lib.stride_tricks.sliding_window_view(window, silhouette.shape)
    area = max(silhouette.sum(), 1)
    share = np.einsum("abij,ij->ab", places, silhouette.astype(np.float32)) / area
    shifts = np.square(np.arange(-reach, reach + 1) / half.mean())
    value = share - WAY_COST * (shifts + shifts[:, None])
    best = np.unravel_index(value.argmax(), value.shape)
    # It must stand out from what is around it: a picture of one colour hides nobody.
    ring = ndimage.binary_dilation(silhouette, iterations=2) & ~silhouette.astype(bool)
    around_it = places[best][ring].mean() if ring.any() else 0.0
    is_found = bool(share[best] >= max(FOUND_SHARE, CONTRAST * around_it))
    shift = np.array(best[::-1]) - reach if is_found else np.zeros(2, int)
    centre = guess + shift

    # From here on only the part of the picture where it may have pixels.
    size = np.ceil(half * (1 + DISTANCE_LIMIT)).astype(int) + 1
    low = np.maximum(cell + shift - size, 0)
    high = np.clip(cell + shift + size + 1, low, (width, height))
    columns, rows = (np.arange(*ends) for ends in zip(low, high, strict=True))
    corner = cell + shift - len(offsets) // 2
    silhouette = _crop(silhouette, rows - corner[1], columns - corner[0])
    x, y = (columns + 0.5 - centre[0]) / half[0], (rows + 0.5 - centre[1]) / half[1]
    beyond = np.maximum(np.sqrt(x * x + (y * y)[:, None]) - 1, 0)
    cost = DISTANCE_COST * beyond**2 + np.where(silhouette, -SHAPE_COST, SHAPE_COST)
    window = tuple(slice(*ends) for ends in zip(low[::-1], high[::-1], strict=True))
    return _View(centre, area, is_found, window, silhouette, cost)


def _refined(view, pixels):
    """The centroid of an object's pixels if it shows most of them, else as found."""
    rows, columns = np.nonzero(pixels)
    if len(rows) < WHOLE_SHARE * view.area:
        return view.centre
    corner = view.window[1].start, view.window[0].start
    return np.array([columns.mean(), rows.mean()]) + corner + 0.5


def _crop(image, rows, columns):
    """image[rows][:, columns], zero where that is outside."""
    height, width = image.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & (
        (columns >= 0) & (columns < width)
    )
    values = image[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    return values * inside
