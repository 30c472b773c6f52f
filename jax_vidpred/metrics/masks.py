"""Masks of objects over time against true ones: IoU, Rand index, boxes, lifetime.

Segments are [t, h, w] integers, 0 = floor and k + 1 = object k, so a label is an
identity. All scores but the boxes follow from one table per frame: how many pixels have
true label i and predicted label j.
"""

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.optimize import linear_sum_assignment

Segments = Integer[np.ndarray, "t h w"]

BOX_THRESHOLD = 0.5


def identity_iou(
    predicted: Segments, true: Segments, num_objects: int
) -> Float[np.ndarray, "t n"]:
    """Intersection over union of every object's masks, matched by label.

    |P_k and T_k| / |P_k or T_k| per frame. Nothing is matched anew, so two objects that
    swap their masks lose both. Pixels that are predicted for an object that truth does
    not show (it left, or is hidden) cost nothing here.

    Args:
      predicted, true: 0 = floor, k + 1 = object k.
      num_objects: n, the highest label that may occur.

    Returns:
      [0, 1]; NaN where the object has no true pixel. Not averaged (`mean_iou` does).

    Raises:
      ValueError: unlike shapes, or a label above num_objects.
    """
    return np.diagonal(_pairwise_iou(predicted, true, num_objects), axis1=1, axis2=2)


def hungarian_iou(
    predicted: Segments, true: Segments, num_objects: int
) -> Float[np.ndarray, "t n"]:
    """Intersection over union of every true object and the mask matched to it.

    In each frame for itself, true objects and predicted masks are paired one to one so
    that the sum of IoU is largest. Its mean over the objects is the foreground mIoU of
    SlotFormer (Wu et al. 2023, code corrected in September 2023). There the predicted
    background takes part in the matching, for slots do not say which of them it is;
    here the floor is known and does not.

    Arguments, range, NaN and errors as in `identity_iou`, which is never higher in the
    mean over all objects that a frame shows. A true object without a mask has 0.
    """
    pairs = _pairwise_iou(predicted, true, num_objects)
    result = np.full(pairs.shape[:2], np.nan)
    for row, iou in zip(result, pairs, strict=True):
        seen = np.flatnonzero(~np.isnan(iou[:, 0]))
        matched, partner = linear_sum_assignment(iou[seen], maximize=True)
        row[seen[matched]] = iou[seen[matched], partner]
    return result


def mean_iou(
    iou: Float[np.ndarray, "t n"], counted: Bool[np.ndarray, "n"]
) -> Float[np.ndarray, "t"]:
    """Mean of IoU over the objects that count and are seen in truth, frame by frame.

    NaN for a frame that shows none of them. Which objects count: see `visible_labels`.
    """
    valid = ~np.isnan(iou) & counted[None]
    total = np.where(valid, iou, 0.0).sum(1)
    with np.errstate(invalid="ignore"):
        return total / valid.sum(1)


def visible_labels(
    segments: Integer[np.ndarray, "h w"], num_objects: int
) -> Bool[np.ndarray, "n"]:
    """Which objects have a pixel in one frame.

    Of the last context frame these are the objects that count: one that enters later
    cannot be followed.
    """
    return np.bincount(segments.ravel(), minlength=num_objects + 1)[1:] > 0


def lifetime(iou: Float[np.ndarray, "t"], threshold: float = 0.5) -> float:
    """Frames until IoU first falls below the threshold, in [0, t]; t if it never does.

    A frame without value (NaN) is no fall; NaN where no frame has one.

    Args:
      iou: of the frames after the context, in order of time.
    """
    if np.isnan(iou).all():
        return float("nan")
    below = np.flatnonzero(iou < threshold)
    return float(below[0]) if len(below) else float(len(iou))


def adjusted_rand_index(
    predicted: Segments, true: Segments, num_objects: int
) -> Float[np.ndarray, "t"]:
    """Agreement of two partitions of a frame's pixels, corrected for chance (ARI).

    Over all pairs of pixels: (I - E) / ((A + B) / 2 - E), with I pairs that are
    together in both, A in truth, B in the prediction, and E = A B / all pairs (Hubert
    and Arabie 1985, eq. 5). Labels do not matter: a swap costs nothing. Conventions of
    slot-attention-video (Kipf et al. 2022), but each frame for itself: the floor is a
    segment like others; 1 where the fraction is 0 / 0, that is for equal partitions
    into one segment or into single pixels.

    Arguments and errors as in `identity_iou`. At most 1, and 0 on average by chance.
    """
    return _rand_index(_overlap(predicted, true, num_objects))


def foreground_rand_index(
    predicted: Segments, true: Segments, num_objects: int
) -> Float[np.ndarray, "t"]:
    """`adjusted_rand_index` over the pixels that truth gives to an object (FG-ARI).

    What is predicted on the true floor costs nothing, so masks that are too large do
    not lose here. NaN for a frame without such pixels, 1 where a single object is seen
    and all its pixels have one predicted label, be it the floor (slot-attention-video
    also says 1 to an empty foreground).
    """
    table = _overlap(predicted, true, num_objects)[:, 1:]
    return np.where(table.any((1, 2)), _rand_index(table), np.nan)


def box_recall(
    predicted: Segments, true: Segments, counted: Bool[np.ndarray, "n"]
) -> Float[np.ndarray, "t"]:
    """Share of true objects whose bounding box is found, in [0, 1].

    In order of their labels, a true object is found if the predicted box with the
    highest IoU reaches BOX_THRESHOLD and has not been used by an object before it; it
    does not try the second best (AR of SlotFormer). Boxes span whole pixels; SlotFormer
    takes them from pixel centre to pixel centre, which is one pixel less and stricter
    on small objects.

    Args:
      predicted, true: 0 = floor, k + 1 = object k.
      counted: objects that count; see `visible_labels`.

    Returns:
      NaN for a frame that shows none of the counted objects.

    Raises:
      ValueError: unlike shapes, or a label above n.
    """
    _check(predicted, true, len(counted))
    low, high, seen = _boxes(true, len(counted))
    other_low, other_high, shown = _boxes(predicted, len(counted))
    inner = np.minimum(high[:, :, None], other_high[:, None]) - np.maximum(
        low[:, :, None], other_low[:, None]
    )
    shared = np.maximum(inner, 0).prod(-1) * shown[:, None]
    union = (high - low).prod(-1)[:, :, None] + (other_high - other_low).prod(-1)[
        :, None
    ]
    iou = shared / np.maximum(union - shared, 1)
    best = iou.argmax(-1)
    reached = iou.max(-1) >= BOX_THRESHOLD

    frames = np.arange(len(true))
    used = np.zeros(seen.shape, bool)
    found = np.zeros(seen.shape, bool)
    for k in np.flatnonzero(counted):
        found[:, k] = seen[:, k] & reached[:, k] & ~used[frames, best[:, k]]
        used[frames, best[:, k]] |= found[:, k]
    with np.errstate(invalid="ignore"):
        return found.sum(1) / (seen & counted[None]).sum(1)


def _check(predicted, true, num_objects):
    if predicted.shape != true.shape or true.ndim != 3:
        raise ValueError(
            f"segments of shapes {predicted.shape} and {true.shape}; wanted two of the"
            " same shape [t, h, w]"
        )
    highest = max(predicted.max(initial=0), true.max(initial=0))
    if highest > num_objects:
        raise ValueError(
            f"segments have label {highest}, wanted at most {num_objects}: 0 for the"
            " floor and k + 1 for object k"
        )


def _overlap(predicted, true, num_objects):
    """[t, n + 1, n + 1] pixels by true label (rows) and predicted label (columns)."""
    _check(predicted, true, num_objects)
    labels = num_objects + 1
    frame = np.arange(len(true)).reshape(-1, 1, 1)
    index = (frame * labels + true) * labels + predicted
    counts = np.bincount(index.ravel(), minlength=len(true) * labels**2)
    return counts.reshape(-1, labels, labels)


def _pairwise_iou(predicted, true, num_objects):
    """[t, n true, n predicted]; NaN in the rows of objects without true pixels."""
    table = _overlap(predicted, true, num_objects)
    true_area, predicted_area = table.sum(2)[:, 1:], table.sum(1)[:, 1:]
    shared = table[:, 1:, 1:]
    union = true_area[:, :, None] + predicted_area[:, None] - shared
    return np.where(true_area[:, :, None] > 0, shared / np.maximum(union, 1), np.nan)


def _rand_index(table):
    def pairs(counts):
        return counts * (counts - 1) / 2

    together = pairs(table).sum((1, 2))
    in_truth, in_prediction = pairs(table.sum(2)).sum(1), pairs(table.sum(1)).sum(1)
    expected = in_truth * in_prediction / np.maximum(pairs(table.sum((1, 2))), 1)
    span = (in_truth + in_prediction) / 2 - expected
    with np.errstate(invalid="ignore"):
        return np.where(span == 0, 1.0, (together - expected) / span)


def _boxes(segments, num_objects):
    """Edges [t, n, 2] (x, y) of the boxes, low and high, and whether there is one."""
    labels = np.arange(1, num_objects + 1).reshape(1, -1, 1, 1)
    is_object = segments[:, None] == labels
    low, high = [], []
    for pixels in (is_object.any(2), is_object.any(3)):
        low.append(pixels.argmax(-1))
        high.append(pixels.shape[-1] - pixels[..., ::-1].argmax(-1))
    shown = is_object.any((2, 3))
    return np.stack(low, -1), np.stack(high, -1), shown
