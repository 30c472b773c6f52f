"""Parts of long work that are done already, so that an interrupted run goes on."""

import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jax_vidpred.data.schema import DataError
from jax_vidpred.data.video_io import write_whole


class Journal:
    """A file with the result of each part, one line of JSON for each.

    It counts only for the work that began it: where `made_from` is not the same, all is
    done anew. The file appears with the first result and is whole after each.

    Args:
      path: the file; None keeps nothing.
      made_from: what decides about the results, as JSON can hold it.
    """

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        made_from: Mapping[str, Any] | None = None,
    ):
        self._path = None if path is None else pathlib.Path(path)
        self._head = json.dumps(made_from, sort_keys=True)
        self._done = {} if self._path is None else self._read(self._path)
        self._begun = False
        self._lock = threading.Lock()

    def _read(self, path: pathlib.Path) -> dict[str, Any]:
        try:
            head, *lines = path.read_text(errors="replace").split("\n")
        except (FileNotFoundError, NotADirectoryError):  # not begun, or just ended
            return {}
        found: dict[str, Any] = {}
        if head != self._head:
            return found
        # What follows the last line break was cut off while it was written.
        for line in lines[:-1]:
            try:
                part, result = json.loads(line)
            except ValueError:  # the disk was full
                break
            found[part] = result
        return found

    def read_others(self, paths: Iterable[str | os.PathLike]) -> None:
        """Takes over what other processes have done of the same work."""
        for path in paths:
            self._done = self._read(pathlib.Path(path)) | self._done

    def knows(self, part: str) -> bool:
        """Whether the part is done."""
        return part in self._done

    def result(self, part: str, compute: Callable[[], Any]) -> Any:
        """The result of a part, computed unless it is known; threads may share it.

        Raises:
          DataError: the file cannot be written.
        """
        if part not in self._done:
            result = compute()
            with self._lock:
                self._done[part] = result
                self._write(part)
        return self._done[part]

    def _write(self, part: str) -> None:
        if self._path is None:
            return
        if not self._begun:
            # All of it, without what was cut off or belongs to other work.
            lines = [self._head, *map(json.dumps, self._done.items())]
            write_whole(self._path, "".join(f"{line}\n" for line in lines).encode())
            self._begun = True
            return
        try:
            with self._path.open("a") as file:
                file.write(json.dumps([part, self._done[part]]) + "\n")
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be written ({error.strerror});"
                " free space or choose another folder"
            ) from error


def fingerprint(arrays: Any) -> str:
    """A short hash of all arrays of a tree: it tells one trained model from another."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(arrays)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
