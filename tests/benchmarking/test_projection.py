"""Expected efficiency of many devices, by hand."""

import io

import pytest
import rich.console

from jax_vidpred.benchmark import MIN_WIDTH
from jax_vidpred.benchmarking import projection, scaling
from jax_vidpred.benchmarking.collectives import Collective
from jax_vidpred.benchmarking.projection import Interconnect, sent_seconds

# 1 GB/s, 1 ms for a round; 1 GFLOP takes 2.5 s at 0.4 of 1 GFLOP/s.
TOY = Interconnect(bandwidth=1e9, latency=1e-3, device="toy", peak=1e9)


def gigabyte(kind, times=1):
    return Collective(kind, 10**9, times)


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


def test_more_devices_are_never_more_efficient():
    sent = [Collective("all-reduce", 10**7, 3)]
    rows = projection.project(1e11, sent)
    assert rows.keys() == projection.INTERCONNECTS.keys()
    for name, row in rows.items():
        assert row["device"] == projection.INTERCONNECTS[name].device
        ranges = list(row["efficiency"].values())
        assert all(0 < least < most <= 1 for least, most in ranges)
        assert ranges == sorted(ranges, reverse=True)
        seconds = sent_seconds(sent, 8, projection.INTERCONNECTS[name])
        share = row["compute_ms"] / (row["compute_ms"] + seconds * 1e3)
        assert row["efficiency"]["8"][0] == pytest.approx(share)


def test_table_shows_all_of_its_text():
    row = {
        "gflop": 205.12,
        "sent": {
            "all-reduce": {"count": 2, "bytes": 2_405_020},
            "all-gather": {"count": 20, "bytes": 2_356_736},
        },
        "projection": projection.project(1e12, []),
    }
    console = rich.console.Console(width=MIN_WIDTH, file=io.StringIO())
    console.print(projection.table({"joint, data parallel": row}))
    shown = console.file.getvalue()
    assert "\u2026" not in shown  # where rich cuts a cell
    assert "joint, data parallel: 205.1 GFLOP a device" in shown
    assert "20 x all-gather, 2.36 MB in all" in shown
    assert shown.count("100 to 100") == 3 * len(projection.INTERCONNECTS)


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
