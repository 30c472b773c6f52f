"""Work in parts: shared by processes, kept part by part, put together by the last."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

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
    """
    journals = shard.journals(path) if path else [None]
    own = Journal(journals[shard.index], made_from)
    names = list(parts)[shard.index :: shard.count]
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    try:
        waiting = [pool.submit(own.result, name, parts[name]) for name in names]
        on_progress(what, 0, len(names))
        for done, one in enumerate(waiting):
            one.result()
            on_progress(what, done + 1, len(names))
    finally:
        # Parts under work become whole, others are not begun.
        pool.shutdown(cancel_futures=True)
    everyone = Journal(journals[shard.index], made_from, filter(None, journals))
    if path is None:
        everyone = own
    if not all(everyone.knows(name) for name in parts):
        return None
    return {name: everyone.result(name, parts[name]) for name in parts}
