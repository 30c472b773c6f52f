"""Taking turns: what one process makes, the others of the machine wait for."""

import contextlib
import fcntl
import os
import pathlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def one_at_a_time(folder: pathlib.Path) -> Iterator[None]:
    """Only one process at a time is inside, for the same folder; the others wait.

    The lock is the file `FOLDER.lock`, beside the folder: it goes with the process,
    however that ends, and the file is removed in the end. Where files cannot be locked
    (some network file systems), or none can be made, nobody waits, and that is said.

    Args:
      folder: what is made; it need not be there yet.
    """
    path = pathlib.Path(f"{folder.resolve()}.lock")
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            waited = False
            while True:
                lock = stack.enter_context(path.open("a"))
                if not _is_free(lock):
                    if not waited:
                        _say(f"another process makes {folder}; waiting for it")
                    waited = True
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if _is_at(lock, path):
                    break
                lock.close()  # whoever had it before has removed it
            # Removed while it is still locked: who waits for it sees that it is gone.
            stack.callback(_remove, path)
        except OSError as error:
            if not isinstance(error, PermissionError) or os.access(folder, os.W_OK):
                _say(
                    f"{path} cannot be locked ({error.strerror}): let one process at a"
                    f" time make {folder}"
                )
        yield


def _is_free(lock) -> bool:
    """Takes the lock, if nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _is_at(lock, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False
