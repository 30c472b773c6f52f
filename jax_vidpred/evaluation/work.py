"""Work in parts: shared by processes, kept part by part, put together by the last."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax_vidpred.data.schema import DataError
from jax_vidpred.evaluation.journal import Journal

Report = Callable[[str, int, int], None]  # what is being done, parts done, parts in all
Parts = Mapping[str, Callable[[], Any]]  # name of a part -> computes it, as JSON holds


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` processes that share the work; `index` counts from 0."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "0/4", the first of four.

        Raises:
          ValueError: it is something else.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(
                f"--shard {text}; wanted INDEX/COUNT such as 0/4, counted from 0"
            )
        return cls(int(index), int(count))

    def journals(self, path: pathlib.Path) -> list[pathlib.Path]:
        """The journal of every process; a lone one has the path itself."""
        if self.count == 1:
            return [path]
        return [
            path.with_name(f"{path.name}.{i}-of-{self.count}")
            for i in range(self.count)
        ]


def work_through(
    what: str,
    parts: Parts,
    *,
    shard: Shard,
    path: pathlib.Path | None,
    made_from: Mapping[str, Any],
    on_progress: Report,
    num_threads: int = 1,
) -> dict[str, Any] | None:
    """Does this process's share of the parts.

    Every process takes every `count`-th part, so a part is the same whoever does it,
    and so is what they add up to.

    Args:
      what: is done, for the reader.
      parts: in order.
      shard: which share.
      path: of the journal; None keeps nothing, and is for one process alone.
      made_from: what decides about the results.
      on_progress: called with parts done and parts in all.
      num_threads: parts that are worked on at once.

    Returns:
      name -> result of all parts; None where other processes have not done theirs.

    Raises:
      DataError: another process does the same share; the journal cannot be written.
    """
    journals = shard.journals(path) if path else [None]
    own = Journal(journals[shard.index], made_from)
    names = list(parts)[shard.index :: shard.count]
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    with _alone(journals[shard.index]):
        try:
            waiting = [pool.submit(own.result, name, parts[name]) for name in names]
            on_progress(what, 0, len(names))
            for done, one in enumerate(waiting):
                one.result()
                on_progress(what, done + 1, len(names))
        finally:
            # Parts under work become whole, others are not begun.
            pool.shutdown(cancel_futures=True)
    own.read_others(journal for journal in journals if journal != journals[shard.index])
    if not all(own.knows(name) for name in parts):
        return None
    return {name: own.result(name, parts[name]) for name in parts}


@contextlib.contextmanager
def _alone(path: pathlib.Path | None) -> Iterator[None]:
    """Nobody else on this machine may write the journal meanwhile.

    Raises:
      DataError: somebody does.
    """
    if path is None:
        yield
        return
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    folder = pathlib.Path(tempfile.gettempdir())
    with (folder / f"jax_vidpred_{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{path}: another process is writing it; wait for it, or choose"
                " another file with --out"
            ) from error
        yield
