"""Expected efficiency of many devices, by hand."""

import pytest

from jax_vidpred.benchmarking import projection, scaling
from jax_vidpred.benchmarking.collectives import Collective
from jax_vidpred.benchmarking.projection import Interconnect, joined, sent_seconds

# 1 GB/s, 1 ms for a round; 1 GFLOP takes 2.5 s at 0.4 of 1 GFLOP/s.
TOY = Interconnect(bandwidth=1e9, latency=1e-3, device="toy", peak=1e9)


def gigabyte(kind, times=1):
    return Collective(kind, 10**9, times, True)


def test_computing_by_hand():
    assert projection.compute_seconds(1e9, TOY) == pytest.approx(2.5)


@pytest.mark.parametrize(
    "kind, seconds",
    [
        ("all-gather", 7 / 8 + 0.003),
        ("reduce-scatter", 7 / 8 + 0.003),
        ("all-to-all", 7 / 8 + 0.003),
        ("collective-permute", 1 + 0.001),
        # Both of its halves.
        ("all-reduce", 2 * (7 / 8 + 0.003)),
    ],
)
def test_sending_by_hand(kind, seconds):
    assert sent_seconds([gigabyte(kind)], 8, TOY) == pytest.approx(seconds)
    five = [gigabyte(kind, 3), gigabyte(kind, 2)]
    assert sent_seconds(five, 8, TOY) == pytest.approx(5 * seconds)


def test_efficiency_by_hand():
    assert projection.efficiency(3.0, 1.0) == (0.75, 1.0)  # sent while computing
    assert projection.efficiency(1.0, 4.0) == (0.2, 0.25)


def test_what_can_be_joined():
    sent = [
        Collective("all-reduce", 10, 1, True),
        Collective("all-reduce", 7, 21, True),  # comes after its loop
        Collective("all-gather", 5, 1, True),
        Collective("all-gather", 6, 1, True),
        Collective("all-gather", 8, 3, True),  # its loop needs it
    ]
    assert joined(sent) == [
        Collective("all-reduce", 17, 1, True),
        Collective("all-gather", 11, 1, True),
        Collective("all-gather", 8, 3, True),
    ]


def test_more_devices_are_never_more_efficient():
    sent = [Collective("all-reduce", 10**7, 3, True)]
    for row in projection.project(1e11, sent).values():
        for case in ("joined", "as_compiled"):
            ranges = list(row[case].values())
            assert all(0 < least <= most <= 1 for least, most in ranges)
            assert ranges == sorted(ranges, reverse=True)
        assert row["as_compiled"]["8"] <= row["joined"]["8"]


def test_every_device_gets_the_batch_of_the_config():
    config = {
        "mesh": {"data": -1, "fsdp": 1},
        "data": {"batch_size": 4},
        "requires": {"vae": {"mesh": {}, "data": {"batch_size": 2}, "requires": {}}},
    }
    wide = scaling._widened(config, {"data": 1, "fsdp": 8})
    assert wide["data"]["batch_size"] == 32 and wide["mesh"] == {"data": 1, "fsdp": 8}
    assert wide["requires"]["vae"]["data"]["batch_size"] == 16
    assert config["data"]["batch_size"] == 4
