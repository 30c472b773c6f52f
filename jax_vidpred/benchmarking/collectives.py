"""What the devices of a compiled program send each other, read from its text.

XLA decides where devices exchange arrays, so the program that it made is asked, not the
one that was written.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter"),
    *("all-to-all", "collective-permute"),
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) (?P<op>[a-z][\w\-]*)\("
)
_ARRAY = re.compile(r"(pred|token|opaque|[a-z]+\d+\w*)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction by which devices exchange arrays.

    Attributes:
      kind: one of KINDS.
      num_bytes: of the whole arrays that a group of devices deals with, in one go: what
        each device gives to an all-reduce, all-to-all or collective-permute, what it
        gives to a reduce-scatter, what it has after an all-gather.
      times: how often it runs in a call of the program.
    """

    kind: str
    num_bytes: int
    times: int = 1


def totals(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """Of a call of the program, by kind of collective.

    Args:
      found: what `collectives` gives.

    Returns:
      kind -> `count`, and `bytes`, the sum of `num_bytes`; kinds that occur.
    """
    sums = {}
    for one in found:
        of_kind = sums.setdefault(one.kind, {"count": 0, "bytes": 0})
        of_kind["count"] += one.times
        of_kind["bytes"] += one.num_bytes * one.times
    return sums


def collectives(text: str) -> list[Collective]:
    """The collectives of a program's HLO text, those of other computations included.

    An asynchronous one is counted where it is done. Of the branches of a conditional,
    that with the most bytes counts.

    Raises:
      ValueError: no compiled program; a collective in a loop of unknown length.
    """
    bodies, entry = _computations(text)
    devices = math.prod(
        int(number)
        for number in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text)
    )
    if entry is None:
        raise ValueError("no ENTRY computation; wanted the text of a compiled program")
    return _of_computation(entry, bodies, devices)


def _computations(text: str) -> tuple[dict[str, list[str]], str | None]:
    bodies, entry, lines = {}, None, []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            lines = bodies[head[2]] = []
            entry = head[2] if head[1] else entry
        else:
            lines.append(line)
    return bodies, entry


def _of_computation(name, bodies, devices) -> list[Collective]:
    found = []
    for line in bodies[name]:
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        op = instruction["op"]
        kind = op.removesuffix("-done").removesuffix("-start")
        if kind in KINDS:
            if not op.endswith("-start"):  # its result holds more than what is sent
                size = _num_bytes(instruction["type"])
                if kind == "reduce-scatter":
                    size *= _group_size(line, devices)
                found.append(Collective(kind, size))
        elif op == "while":
            found += _loop(line, bodies, devices)
        elif op == "conditional":
            found += _longest_branch(line, bodies, devices)
        elif op in ("call", "fusion", "async-start"):
            for called in _names(line, "to_apply|calls"):
                found += _of_computation(called, bodies, devices)
    return found


def _loop(line, bodies, devices) -> list[Collective]:
    found = [
        one
        for name in _names(line, "body|condition")
        for one in _of_computation(name, bodies, devices)
    ]
    trips = _TRIPS.search(line)
    if found and trips is None:
        raise ValueError(
            f"a loop of unknown length has {found[0].kind} in it, so that what is sent"
            " cannot be counted; exchange after the loop, or loop by jax.lax.scan"
        )
    return [dataclasses.replace(one, times=one.times * int(trips[1])) for one in found]


def _longest_branch(line, bodies, devices) -> list[Collective]:
    names = _names(line, "true_computation|false_computation|branch_computations")
    branches = [_of_computation(name, bodies, devices) for name in names]
    return max(branches, key=lambda found: sum(c.num_bytes * c.times for c in found))


def _names(line: str, attributes: str) -> list[str]:
    """Computations that an instruction names: `body=%a`, or `calls={%a, %b}`."""
    found = re.findall(rf"\b(?:{attributes})=(\{{[^}}]*\}}|[%\w.\-]+)", line)
    return [name for one in found for name in re.findall(r"[\w.\-]+", one)]


def _num_bytes(type_text: str) -> int:
    """Bytes of a type such as `(f32[8,4]{1,0}, bf16[])`."""
    total = 0
    for kind, shape in _ARRAY.findall(type_text):
        bits = re.search(r"\d+", kind)  # f8e4m3 has 8
        size = 8 if kind == "pred" else int(bits[0]) if bits else 0
        numbers = [int(length) for length in shape.split(",") if length]
        total += math.prod(numbers) * size // 8
    return total


def _group_size(line: str, devices: int) -> int:
    """Devices that take part together, in each way that XLA writes them."""
    groups = re.search(r"replica_groups=(.*)", line)
    text = groups[1] if groups else ""
    if each := re.match(r"\[\d+,(\d+)\]<=", text):  # [groups, devices of each]
        return int(each[1])
    if listed := re.match(r"\{\{([\d,]+)\}", text):
        return len(listed[1].split(","))
    if mesh := re.match(r"mesh\[([^\]]*)\]\s*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", mesh[2]))
    return devices  # {}: all of them
