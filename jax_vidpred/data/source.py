"""Random access to any frames of any video of a prepared data set.

A video is stored as records of FRAMES_PER_RECORD consecutive frames, and a clip reads
only the records that it touches: decompressing whole videos would cost ten times more.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from jax_vidpred.data.schema import (
    COLLISION,
    FLOW,
    LABEL,
    MAX_OBJECTS,
    PAIRS,
    PRESENT,
    SEGMENTS,
    STATE,
    STATE_FEATURES,
    VIDEO,
    VIDEO_ID,
    VISIBLE,
    DataError,
)

FRAMES_PER_RECORD = 4
FRAME = "frame"  # number of a record's first frame
# About the step from a frame to the next.
STEP_KEYS = (FLOW, VISIBLE, COLLISION, PAIRS)
FLOW_KEYS = (FLOW, VISIBLE)  # cast from annotations, or estimated by a network
# Unknown without annotation.
ANNOTATED_KEYS = (COLLISION, PAIRS, SEGMENTS, STATE, PRESENT)


class DamagedError(DataError):
    """A record of a prepared video cannot be read, or is not the one it should be.

    Attributes:
      split, video_id: of the video.
    """

    def __init__(self, message: str, *, split: str, video_id: int):
        super().__init__(message)
        self.split, self.video_id = split, video_id


@dataclasses.dataclass(frozen=True)
class Field:
    """How one key is stored and handed out, per frame."""

    shape: tuple[int, ...]
    stored: type
    given: type


def record_fields(
    height: int, width: int, grid_stride: int, *, labels: bool = False
) -> dict[str, Field]:
    """What a record holds for each of its frames; LABEL only where there are labels."""
    grid = (height // grid_stride, width // grid_stride)
    fields = {
        VIDEO: Field((height, width, 3), np.uint8, np.uint8),
        FLOW: Field((*grid, 2), np.float16, np.float32),
        VISIBLE: Field((*grid, 1), np.float16, np.float32),
        SEGMENTS: Field((height, width), np.uint8, np.uint8),
        STATE: Field((MAX_OBJECTS, len(STATE_FEATURES)), np.float32, np.float32),
        PRESENT: Field((MAX_OBJECTS,), np.uint8, np.bool_),
        COLLISION: Field((), np.float32, np.float32),
        PAIRS: Field((MAX_OBJECTS, MAX_OBJECTS), np.uint8, np.bool_),
    }
    if labels:
        fields[LABEL] = Field((height, width, 3), np.uint8, np.uint8)
    return fields


@dataclasses.dataclass(frozen=True, eq=False)
class VideoSource:
    """The videos of one split.

    Attributes:
      split: its name.
      records: serialised records; those of a video follow each other.
      fields: what a record holds.
      frame_stride: frames between the two frames that the STEP_KEYS are about.
      video_ids: [n] int32, number of each video.
      num_frames: [n] int32, its length.
      annotated: [n] bool, whether its ANNOTATED_KEYS are known.
      labelled: [n] bool, whether its LABEL is known.
      flow_source: [n] where its FLOW_KEYS come from: "annotations", the name of a
        network, or "" where they are not known.
      fingerprint: of the files and settings that it was prepared from.
      folder: where the records are.
    """

    split: str
    records: Sequence[bytes]
    fields: Mapping[str, Field]
    frame_stride: int
    video_ids: np.ndarray
    num_frames: np.ndarray
    annotated: np.ndarray
    labelled: np.ndarray
    flow_source: tuple[str, ...]
    fingerprint: str
    folder: str

    def __post_init__(self):
        num_records = -(-self.num_frames // FRAMES_PER_RECORD)
        first = np.concatenate([[0], np.cumsum(num_records)])
        if first[-1] != len(self.records):
            raise DataError(
                f"split {self.split!r} has {len(self.records)} records, wanted"
                f" {first[-1]}; delete the prepared data set, it will be made again"
            )
        object.__setattr__(self, "_first_record", first)

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.video_ids)

    def knows(self, keys: Sequence[str]) -> np.ndarray:
        """Which videos can give these keys: [n] bool."""
        known = np.ones(len(self), bool)
        if any(key in ANNOTATED_KEYS for key in keys):
            known &= self.annotated
        if LABEL in keys:
            known &= self.labelled
        if any(key in FLOW_KEYS for key in keys):
            known &= np.array([bool(source) for source in self.flow_source])
        return known

    def empty(self, keys: Sequence[str], num_clips: int, clip_frames: int) -> dict:
        """Zeros of the shapes and types that `read` fills: {key: [b, t, ...]}."""
        return {
            key: np.zeros(
                (num_clips, clip_frames - (key in STEP_KEYS), *self.fields[key].shape),
                self.fields[key].given,
            )
            for key in keys
        }

    def read(
        self, index: int, start: int, stride: int, into: Mapping[str, np.ndarray]
    ) -> None:
        """Reads frames start, start + stride, ... of a video into [t, ...] arrays.

        The length of each array says how many frames to read.

        Raises:
          DataError: the video is too short.
          DamagedError: one of its records is damaged; the arrays may hold a part.
        """
        length = max(len(array) for array in into.values())
        last = start + (length - 1) * stride
        if start < 0 or last >= self.num_frames[index]:
            raise DataError(
                f"video {self.video_ids[index]} has {self.num_frames[index]} frames;"
                f" frames {start} to {last} were asked for; ask for a shorter clip"
            )
        arrays = [(key.encode(), self.fields[key], into[key]) for key in into]
        try:
            self._fill(index, start, stride, length, arrays)
        except (OSError, RuntimeError, LookupError, ValueError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DamagedError(
                f"video {self.video_ids[index]} of split {self.split!r} cannot be read"
                f" ({reason}); delete {self.folder}, it will be made again",
                split=self.split,
                video_id=int(self.video_ids[index]),
            ) from error

    def _fill(self, index, start, stride, length, arrays) -> None:
        first = int(self._first_record[index])
        video = _varint(int(self.video_ids[index]))
        record = None
        for at in range(length):
            position, offset = divmod(start + at * stride, FRAMES_PER_RECORD)
            if position == record:
                continue  # came with the frame before
            record = position
            payloads = record_payloads(self.records[first + record])
            # ArrayRecord finds flipped bits, but not that a file was cut off since it
            # was opened, or comes from another data set: then it gives something else.
            frame = _varint(record * FRAMES_PER_RECORD)
            if payloads[_VIDEO_ID] != video or payloads[_FRAME] != frame:
                raise ValueError(f"record {first + record} is of other frames")
            count = -(-(FRAMES_PER_RECORD - offset) // stride)
            for name, field, array in arrays:
                rows = np.frombuffer(payloads[name], field.stored)
                rows = rows.reshape(FRAMES_PER_RECORD, *field.shape)[offset::stride]
                wanted = array[at : at + count]
                wanted[...] = rows[: len(wanted)]


_VIDEO_ID, _FRAME = VIDEO_ID.encode(), FRAME.encode()


def record_payloads(record: bytes) -> dict[bytes, memoryview]:
    """The bytes of every feature of a serialised `tf.train.Example`, not copied.

    TFDS parses and copies all features of a record; this only finds them. The message
    is Example { Features { map<name, Feature { BytesList { one value } } } }, and each
    level starts with a tag byte and a length (protocol buffers' encoding).
    """
    data = memoryview(record)
    payloads = {}
    _, at, end = _enter(data, 0)  # features
    while at < end:
        _, at, entry_end = _enter(data, at)
        _, name, value = _enter(data, at)
        name = bytes(data[name:value])
        _, value, _ = _enter(data, value)  # Feature
        _, value, _ = _enter(data, value)  # BytesList
        _, value, value_end = _enter(data, value)
        payloads[name] = data[value:value_end]
        at = entry_end
    return payloads


@functools.cache
def _varint(number: int) -> bytes:
    """A number as protocol buffers store it: seven bits a byte, the lowest first."""
    if number < 0x80:
        return bytes([number])
    return bytes([number & 0x7F | 0x80]) + _varint(number >> 7)


def _enter(data: memoryview, at: int) -> tuple[int, int, int]:
    """Tag of the field at a position, and where its content starts and ends."""
    tag, length, shift = data[at], 0, 0
    while True:
        at += 1
        length |= (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            return tag, at + 1, at + 1 + length
