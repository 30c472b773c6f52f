"""Binary masks: COCO's compressed run-length code and intersection over union.

The code walks the mask column by column and counts equal pixels: zeros, ones, zeros,
... (the first count may be 0). From the fourth count on, the difference from the count
two places back is stored. A number is cut into groups of 5 bits, lowest first; bit 32
says that another group follows, bit 16 of the last group is the sign; a group is the
character with code 48 + group. The rules are those of the COCO API (Lin et al. 2014).
"""

import numpy as np

_OFFSET = 48
_MORE = 32
_LONGEST = 50  # bits of a number; no picture is that large
_MAX_GROUPS = 6  # 30 bits: more than any image has pixels


def encode_rle(mask: np.ndarray) -> dict:
    """Codes a mask as `{"size": [h, w], "counts": str}`.

    Args:
      mask: [h, w], anything that is truthy where the object is.

    Raises:
      ValueError: the mask has not two dimensions.
    """
    mask = np.asarray(mask, bool)
    if mask.ndim != 2:
        raise ValueError(f"mask of shape {mask.shape}; wanted [height, width]")
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    first = [0] if pixels.size and pixels[0] else []
    edges = np.concatenate([first, [0], changes, [pixels.size]]).astype(np.int64)
    runs = np.diff(edges)
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]

    # [number, group]: shifts keep the sign, so negative numbers need no case.
    shifts = 5 * np.arange(_MAX_GROUPS + 1)
    rest = numbers[:, None] >> shifts
    groups = rest & 31
    # A group ends its number when what follows is only its own sign bit, repeated.
    ends = (rest[:, 1:] == 0) & (groups[:, :-1] < 16)
    ends |= (rest[:, 1:] == -1) & (groups[:, :-1] >= 16)
    last = ends.argmax(axis=1)
    position = np.arange(_MAX_GROUPS)
    characters = groups[:, :-1] + _OFFSET + _MORE * (position < last[:, None])
    counts = characters[position <= last[:, None]].astype(np.uint8).tobytes().decode()
    return {"size": [int(side) for side in mask.shape], "counts": counts}


def decode_rle(rle: dict) -> np.ndarray:
    """The mask, [h, w] bool, of a compressed code as `encode_rle` makes it.

    Raises:
      ValueError: the code is cut short, or its runs do not fill the picture.
    """
    height, width = rle["size"]
    runs, number, shift = [], 0, 0
    for character in rle["counts"].encode("ascii"):
        group = character - _OFFSET
        if not 0 <= group < 64:
            raise ValueError(f"{chr(character)!r} is no character of a run-length code")
        number |= (group & 31) << shift
        shift += 5
        if shift > _LONGEST:
            raise ValueError("run-length code is damaged: a number without an end")
        if group & _MORE:
            continue
        if group & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number, shift = 0, 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(
            f"run-length code is damaged: its {len(runs)} runs sum to {sum(runs)},"
            f" wanted {height} x {width} = {height * width}"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def mask_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of masks [..., h, w] -> [...]; 1 where both are empty.

    Raises:
      ValueError: the shapes differ.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape:
        raise ValueError(
            f"masks of shapes {a.shape} and {b.shape}; wanted equal shapes"
        )
    union = np.sum(a | b, axis=(-2, -1))
    shared = np.sum(a & b, axis=(-2, -1))
    return np.where(union == 0, 1.0, shared / np.maximum(union, 1))
