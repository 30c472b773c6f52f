"""Damaged videos in the middle of training: each reported once, all counted."""

import collections
import sys
import threading

from jax_vidpred.data.schema import DataError
from jax_vidpred.data.source import DamagedError

WINDOW = 100  # clips that the share of damaged ones is taken of
MOST = WINDOW // 2  # of them may be damaged


class Skips:
    """What could not be read; shared by all threads that read.

    A run goes on without a few videos, but not without its data: it ends when more than
    half of the last clips cannot be read, and so by chance, sooner or later, when a
    third of all cannot.

    Attributes:
      count: clips that could not be read so far.
    """

    def __init__(self):
        self.count = 0
        self._reported: set[tuple[str, int]] = set()
        self._failed = collections.deque(maxlen=WINDOW)
        self._lock = threading.Lock()

    def note_read(self) -> None:
        """A clip was read well."""
        with self._lock:
            self._failed.append(False)

    def note_damaged(self, error: DamagedError) -> None:
        """A clip could not be read; says so, once for each video.

        Raises:
          DataError: most of the last clips could not.
        """
        video = (error.split, error.video_id)
        with self._lock:
            self.count += 1
            self._failed.append(True)
            num_failed = sum(self._failed)
            is_new = video not in self._reported
            self._reported.add(video)
        if num_failed > MOST:
            raise DataError(
                f"{num_failed} of the last {len(self._failed)} clips cannot be read;"
                f" {error}"
            ) from error
        if is_new:
            print(f"skipped: {error}", file=sys.stderr)
