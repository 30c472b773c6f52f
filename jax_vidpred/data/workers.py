"""Work on many files by several processes, results in order."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from jax_vidpred.data.schema import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[Result]:
    """`map(function, items)` over processes; in this process when num_workers < 2.

    Processes are spawned, not forked: a fork of a process whose threads hold locks, as
    JAX's do, can hang. They import the module of the function and nothing else.

    Args:
      function: can be pickled, like its items and results.
      items: results come in their order.
      num_workers: number of processes.

    Raises:
      DataError: a process died.
      Whatever the function raises.
    """
    if num_workers < 2:
        yield from map(function, items)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=end_with_parent,
    )
    try:
        waiting = collections.deque()
        for item in items:
            with _bare_main():
                waiting.append(pool.submit(function, item))
            # Results may be large: no more of them than keep all workers busy.
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise DataError(
            "a worker process died, perhaps for lack of memory; run the same again"
            " with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """This worker process ends when its parent does, even when that is killed."""

    def wait():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _bare_main():
    """Hides the running script while a worker starts.

    A spawned process imports the main module again: slow where that imports JAX, and an
    endless loop where a script has no `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
