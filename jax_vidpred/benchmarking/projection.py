"""What training on many devices could reach, from what its program exchanges.

Weak scaling: each of n devices treats as many examples as one does. A step takes

    t_compute = FLOP of a device / (peak * UTILISATION)

and sending takes, for each collective of b bytes,

    all-reduce                              2 ((n-1)/n * b / bandwidth + r * latency)
    all-gather, reduce-scatter, all-to-all     (n-1)/n * b / bandwidth + r * latency
    collective-permute                                   b / bandwidth + latency

in r = log2(n) rounds (two trees: Sanders, Speck & Traeff 2009; a ring, Patarasuk & Yuan
2009, sends as many bytes in n-1 rounds, so it is for large arrays). t_sent is their
sum. Efficiency lies

    from t_compute / (t_compute + t_sent)     nothing is sent while computing
    to   t_compute / max(t_compute, t_sent)   all is

Each collective of the program counts by itself. Loading of data and differences between
devices are left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import rich.table

from jax_vidpred.benchmarking.collectives import Collective

UTILISATION = 0.4  # share of the peak that a step reaches: an assumption
SIZES = (8, 64, 256)  # devices


class Interconnect(NamedTuple):
    """How devices are joined.

    Attributes:
      bandwidth: bytes/s that a device sends while it receives as many.
      latency: seconds from a device to the next.
      peak: bf16 FLOP/s of the devices that it usually joins, and their `device` name.
    """

    bandwidth: float
    latency: float
    device: str
    peak: float


# Latencies: NCCL's model reckons with 1.25 us for NVLink and 8.5 us for a network in
# trees (src/graph/tuning.cc, LL128); 20 us of TCP and 1 us of TPUs are assumptions.
# Bandwidths: NVIDIA's data sheets (A100 300 GB/s each way by NVLink 3, H100 and H200
# 450 GB/s by NVLink 4; NDR 400 Gb/s a device); Ethernet's 100 Gb/s are one host's. TPU:
# Google's "TPU v4" and "TPU v5e" pages, all-reduce bandwidth of a pod by its chips, 1.1
# PB/s by 4096 and 51.2 TB/s by 256. Peaks are from the same pages.
_H100, _A100 = ("H100", 989e12), ("A100", 312e12)
INTERCONNECTS = {
    "NVLink 3": Interconnect(300e9, 1.25e-6, *_A100),
    "NVLink 4": Interconnect(450e9, 1.25e-6, *_H100),
    "InfiniBand NDR": Interconnect(50e9, 8.5e-6, *_H100),
    "100 Gb/s Ethernet": Interconnect(12.5e9, 20e-6, *_A100),
    "TPU v4 ICI": Interconnect(269e9, 1e-6, "TPU v4", 275e12),
    "TPU v5e ICI": Interconnect(200e9, 1e-6, "TPU v5e", 197e12),
}


def compute_seconds(flop: float, interconnect: Interconnect) -> float:
    """What a device needs for the arithmetic of its step."""
    return flop / (interconnect.peak * UTILISATION)


def sent_seconds(
    sent: Sequence[Collective], num_devices: int, interconnect: Interconnect
) -> float:
    """How long the collectives of a step take, if nothing else happens.

    Args:
      sent: their bytes do not depend on how many devices there are.
      num_devices: at least 2; all take part in every collective.
      interconnect: that joins them.
    """
    return sum(one.times * _seconds(one, num_devices, interconnect) for one in sent)


def _seconds(one: Collective, n: int, interconnect: Interconnect) -> float:
    bandwidth, latency, *_ = interconnect
    if one.kind == "collective-permute":  # all to their neighbours, at once
        return one.num_bytes / bandwidth + latency
    passes = 2 if one.kind == "all-reduce" else 1
    rounds = math.ceil(math.log2(n))
    return passes * ((n - 1) / n * one.num_bytes / bandwidth + rounds * latency)


def efficiency(compute: float, sent: float) -> tuple[float, float]:
    """Share of n times one device's speed: at least, at most; from seconds."""
    return compute / (compute + sent), compute / max(compute, sent)


def project(flop: float, sent: Sequence[Collective]) -> dict[str, dict[str, Any]]:
    """Efficiency for each interconnect and number of devices.

    Args:
      flop: of a step and device.
      sent: the collectives of a step.

    Returns:
      name of the interconnect -> `device`, `compute_ms` and `efficiency`: number of
      devices (as text, for JSON) -> (at least, at most).
    """
    rows = {}
    for name, interconnect in INTERCONNECTS.items():
        compute = compute_seconds(flop, interconnect)
        rows[name] = {
            "device": interconnect.device,
            "compute_ms": compute * 1e3,
            "efficiency": {
                str(n): efficiency(compute, sent_seconds(sent, n, interconnect))
                for n in SIZES
            },
        }
    return rows


def table(scaling: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    """Rows of `scaling.measure_scaling`, one line for each interconnect."""
    shown = rich.table.Table(box=None)
    shown.add_column("weak scaling, efficiency in %", no_wrap=True)
    for column in ("compute ms", *(f"{n} devices" for n in SIZES)):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, row in scaling.items():
        shown.add_row(f"{name}: {row['gflop']:.1f} GFLOP a device")
        for kind, of_kind in row["sent"].items():
            size = of_kind["bytes"] / 1e6
            shown.add_row(f"  {of_kind['count']} x {kind}, {size:.2f} MB in all")
        for interconnect, one in row["projection"].items():
            ranges = one["efficiency"].values()
            shown.add_row(
                f"  {interconnect} ({one['device']})",
                f"{one['compute_ms']:.3f}",
                *(f"{least * 100:.0f} to {most * 100:.0f}" for least, most in ranges),
            )
    return shown
