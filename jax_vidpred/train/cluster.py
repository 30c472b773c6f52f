"""Several processes that train together: how they meet, agree, and miss each other.

JAX connects the processes and ends all when one dies, with a stack trace and after
minutes. So each also keeps a connection to process 0 and says in one line who is gone.
"""

import contextlib
import json
import os
import pathlib
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

# The key-value store that JAX's processes share has no public name yet.
from jax._src import distributed

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
LOST = 3  # exit status of a process that another one has left alone
_DAY = 24 * 3600
_NOTICED = 5.0  # seconds after which the end of a connection has been noticed
_KEY = "jax_vidpred/"


class ClusterError(ValueError):
    """The processes cannot work together; the message says how to go on."""


def join(*, timeout: float = 300.0, peer_timeout: float = 60.0) -> None:
    """Connects this process with the others of the run; returns when all are there.

    On TPU pods, under Slurm and Open MPI, JAX finds them by itself. Elsewhere the
    environment says where: JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0 on).

    From then on every process watches the others, and ends with status `LOST` and one
    line when one is gone without `leave`, or silent for `peer_timeout` seconds.

    Args:
      timeout: seconds to wait for all. Who waits longer ends with one line, status 2.
      peer_timeout: seconds of silence after which a process counts as gone.

    Raises:
      ClusterError: the environment names no cluster, or half of one.
    """
    given = _from_environment()
    where = given.get("coordinator_address", "the address that the cluster gives")

    def give_up():
        _die(
            f"not all processes of the run came to {where} within {timeout:.0f} s"
            f" (this one: {given or 'as the cluster says'}); start all of them with the"
            " same address, and see that its port can be reached",
            status=2,
        )

    # JAX itself would end the process with a stack trace.
    waiting = threading.Timer(timeout, give_up)
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            **given,
            # What is given is all there is: Slurm, say, would leave one GPU only.
            cluster_detection_method="deactivate" if given else None,
            initialization_timeout=int(timeout) + 60,
            # Only if the watch below fails.
            heartbeat_timeout_seconds=int(2 * peer_timeout) + 60,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        advice = f"set {ADDRESS}=host:port, {COUNT} and {INDEX}"
        if given:
            advice = "is its port free, and the address that of process 0?"
        raise ClusterError(f"cannot meet at {where} ({reason}); {advice}") from error
    finally:
        waiting.cancel()
    if jax.process_count() > 1:
        try:
            _Watch.current = _Watch(peer_timeout)
        except OSError as error:
            raise ClusterError(
                f"the processes met at {where}, but not at a further port of process 0"
                f" ({error}); open the ports between the hosts"
            ) from error
        _Watch.current.start()


def check_same(**facts: str) -> None:
    """Compares what must be the same in all processes with process 0.

    Raises:
      ClusterError: naming what differs.
    """
    if jax.process_count() == 1:
        return
    wanted = json.loads(_of_first("facts", json.dumps(facts)))
    for name, value in facts.items():
        if wanted.get(name) != value:
            raise ClusterError(
                f"process {jax.process_index()} on {socket.gethostname()} has another"
                f" {name} ({_difference(value, wanted.get(name))}); start all processes"
                " with the same line and the same version"
            )
    _wait_for_all("same")  # nobody begins before


def check_shared(folder: pathlib.Path) -> None:
    """Sees to it that what process 0 writes into a folder is there for all.

    Raises:
      ClusterError: it is not.
    """
    if jax.process_count() == 1:
        return
    name = f".shared-{secrets.token_hex(8)}"
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    mark = folder / _of_first("shared", name)
    for _ in range(50):  # network file systems show new files after a while
        if mark.exists():
            break
        time.sleep(0.1)
    else:
        raise ClusterError(
            f"{folder} on {socket.gethostname()} is not that of process 0; give a"
            " --workdir on storage that all hosts share"
        )
    _wait_for_all("seen")
    if jax.process_index() == 0:
        mark.unlink()


def exchanged(text: str) -> list[str]:
    """What every process gives, for all of them, in order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    client, folder = distributed.global_state.client, f"{_KEY}exchange/"
    client.key_value_set(f"{folder}{jax.process_index()}", text, allow_overwrite=True)
    _wait_for_all("exchange")
    return [
        client.blocking_key_value_get(f"{folder}{index}", _DAY * 1000)
        for index in range(jax.process_count())
    ]


def total(name: str, value: int) -> int:
    """Sum over processes of what each last gave, on process 0; waits for nobody."""
    if jax.process_count() == 1:
        return value
    client, folder = distributed.global_state.client, f"{_KEY}{name}/"
    own = folder + str(jax.process_index())
    client.key_value_set(own, str(value), allow_overwrite=True)
    if jax.process_index() > 0:
        return value
    return sum(int(given) for _, given in client.key_value_dir_get(folder))


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """What is inside is done by process 0, and only then by the others.

    So they find what it has made, or make it themselves where they do not see its disk.
    """
    if jax.process_count() == 1:
        yield
        return
    if jax.process_index() > 0:
        _wait_for_all(name)
    yield
    if jax.process_index() == 0:
        _wait_for_all(name)


def leave(status: int) -> None:
    """Ends a process of a run, well or with an error; returns only where none joined.

    A process that ends with an error must not wait for the others, as JAX would at
    exit: they wait for it.
    """
    if not jax.distributed.is_initialized():
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if status == 0:
        # Nobody takes the coordinator away while others still need it.
        _wait_for_all("leave")
        if _Watch.current is not None:
            _Watch.current.stop()
        jax.distributed.shutdown()
    os._exit(status)


def wait_for_verdict() -> None:
    """After a failed exchange: gives the watch time to say who is gone, and to end."""
    if _Watch.current is not None:
        _Watch.current.join(timeout=_NOTICED)


def _of_first(name: str, value: str) -> str:
    """What process 0 gives as `value`; waits for it."""
    client = distributed.global_state.client
    if jax.process_index() == 0:
        client.key_value_set(_KEY + name, value)
    return client.blocking_key_value_get(_KEY + name, _DAY * 1000)


def _wait_for_all(name: str) -> None:
    """Returns when all processes are here; a name serves once."""
    distributed.global_state.client.wait_at_barrier(_KEY + name, _DAY * 1000)


def _from_environment() -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`; {} where JAX finds them itself."""
    there = {name: os.environ.get(name, "") for name in (ADDRESS, COUNT, INDEX)}
    if not there[COUNT] and not there[INDEX]:
        return {}
    missing = [name for name, value in there.items() if not value]
    if missing:
        raise ClusterError(
            f"{', '.join(missing)} not set, but {', '.join(set(there) - set(missing))};"
            f" set all three: {ADDRESS}=host:port, {COUNT}=4, {INDEX}=0 to 3"
        )
    host, _, port = there[ADDRESS].rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(f"{ADDRESS}={there[ADDRESS]}; wanted host:port")
    count, index = there[COUNT], there[INDEX]
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise ClusterError(
            f"{COUNT}={count}, {INDEX}={index}; wanted a number of processes, and one"
            " from 0 to below it"
        )
    return {
        "coordinator_address": there[ADDRESS],
        "num_processes": int(count),
        "process_id": int(index),
    }


def _difference(value: str, wanted: str | None) -> str:
    """Where two texts part, short; for JSON objects, the keys that differ."""
    try:
        mine, first = json.loads(value), json.loads(wanted or "{}")
        keys = sorted(k for k in {**mine, **first} if mine.get(k) != first.get(k))
        return "differs in " + ", ".join(keys)
    except (ValueError, AttributeError, TypeError):
        return f"{value[:80]}, process 0 has {str(wanted)[:80]}"


def _die(reason: str, status: int) -> None:
    # One write, from a thread: what the main thread prints cannot fall into it. And the
    # last one: JAX may notice at the same time, and its C++ log would follow.
    said = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.write(said, f"main: {reason}\n".encode())
    os._exit(status)


class _Watch(threading.Thread):
    """Notices, in a thread, that another process is gone.

    Every process but the first keeps a connection to the first, and both sides send a
    line now and then. The end of a connection shows that a process died, silence that
    its machine did. The first one tells the others who it was.
    """

    current: "_Watch | None" = None

    def __init__(self, timeout: float):
        super().__init__(daemon=True, name="watch")
        self._timeout = timeout
        self._connections = selectors.DefaultSelector()
        self._heard: dict[socket.socket, float] = {}
        self._names: dict[socket.socket, str] = {}
        self._left: set[socket.socket] = set()
        self._done = threading.Event()
        if jax.process_index() == 0:
            token = secrets.token_hex(16)
            server = socket.create_server(("", 0), backlog=jax.process_count())
            host = distributed.global_state.coordinator_address.rpartition(":")[0]
            place = [host, server.getsockname()[1], token]
            _of_first("watch", json.dumps(place))
            self._accept(server, token)
        else:
            host, port, token = json.loads(_of_first("watch", ""))
            one = socket.create_connection((host.strip("[]"), port), timeout=timeout)
            name = f"{jax.process_index()} on {socket.gethostname()}"
            one.sendall(f"{token} {name}\n".encode())
            self._add(one, "0")

    def stop(self) -> None:
        """This process leaves: the others need not worry, nor does it any more."""
        self._done.set()
        self.join(timeout=_NOTICED)

    def run(self) -> None:
        """Until the process leaves."""
        said = 0.0
        while True:
            for key, _ in self._connections.select(timeout=0.1):
                self._hear(key.fileobj)
            now = time.monotonic()
            if now - said > min(self._timeout / 4, 5.0) or self._done.is_set():
                said = now
                self._tell(b"bye\n" if self._done.is_set() else b"here\n")
            for one, heard in self._heard.items():
                if now - heard > self._timeout and one not in self._left:
                    self._mourn(one, f"silent for {self._timeout:.0f} s")
            if self._done.is_set():
                return

    def _accept(self, server: socket.socket, token: str) -> None:
        server.settimeout(self._timeout)
        while len(self._names) < jax.process_count() - 1:
            one, _ = server.accept()
            one.settimeout(_NOTICED)
            with contextlib.suppress(OSError):
                first, _, name = one.makefile("r").readline().strip().partition(" ")
                if secrets.compare_digest(first.encode(), token.encode()):
                    self._add(one, name)
                    continue
            one.close()  # a stranger
        server.close()

    def _add(self, one: socket.socket, name: str) -> None:
        one.settimeout(self._timeout)
        self._names[one], self._heard[one] = name, time.monotonic()
        self._connections.register(one, selectors.EVENT_READ)

    def _hear(self, one: socket.socket) -> None:
        try:
            said = one.recv(4096)
        except OSError:
            said = b""
        self._heard[one] = time.monotonic()
        for line in said.decode(errors="replace").splitlines():
            if line == "bye":
                self._left.add(one)
            elif line.startswith("lost "):
                self._names[one] = line.removeprefix("lost ")
                self._mourn(one, "gone")
        if not said:
            self._connections.unregister(one)
            if one not in self._left:
                self._mourn(one, "gone")

    def _mourn(self, one: socket.socket, how: str) -> None:
        if self._done.is_set():
            return
        name = self._names[one]
        self._tell(f"lost {name}\n".encode())
        _die(
            f"process {name} of {jax.process_count()} is {how}, its own last lines say"
            " why; this one stops, nothing after the last checkpoint is kept; the same"
            " line goes on from there",
            LOST,
        )

    def _tell(self, line: bytes) -> None:
        for one in self._names:
            with contextlib.suppress(OSError):
                one.sendall(line)
