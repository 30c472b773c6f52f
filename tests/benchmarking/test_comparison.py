"""A benchmark beside an earlier one."""

import json

import pytest

from jax_vidpred.benchmarking import comparison


def row(median, repeats, examples):
    points = {"min": -1.5, "quartile_1": -1.0, "median": 0.0}
    points |= {"quartile_3": 1.0, "max": 1.5}
    wall = {name: median + shift for name, shift in points.items()}
    return {"wall_ms": wall, "repeats": repeats, "examples": examples}


def report(device="2 x cpu", repeats=20, examples=8, **medians):
    rows = {name: row(m, repeats, examples) for name, m in medians.items()}
    return {"device": device, "cores": 2, "measurements": rows}


def test_ratios_and_spread():
    found = comparison.compare(
        report(a=10.0, b=10.0, c=10.0, old=2.0), report(a=5.0, b=12.0, c=13.0, new=2.0)
    )
    assert found["rows"]["a"] == {
        "old_ms": 10.0,
        "new_ms": 5.0,
        "ratio": 0.5,
        "beyond_spread": True,
    }
    # 9 to 11 and 11 to 13 touch.
    assert not found["rows"]["b"]["beyond_spread"]
    assert found["rows"]["c"]["beyond_spread"]
    assert found["only_old"] == ["old"] and found["only_new"] == ["new"]
    assert found["differences"] == {}
    assert comparison.remarks(found) == [
        "Only in the old result: old",
        "Only in the new result: new",
    ]


@pytest.mark.parametrize("repeats, apart", [(3, False), (5, False), (10, True)])
def test_few_calls_must_not_overlap_at_all(repeats, apart):
    old, new = report(repeats=repeats, a=10.0), report(repeats=repeats, a=12.5)
    assert comparison.compare(old, new)["rows"]["a"]["beyond_spread"] == apart
    new = report(repeats=repeats, a=13.5)
    assert comparison.compare(old, new)["rows"]["a"]["beyond_spread"] == (repeats > 3)


def test_other_work_is_told():
    found = comparison.compare(report(a=10.0), report(a=5.0, examples=4))
    assert found["differences"] == {"examples of a": [8, 4]}


def test_other_machine_is_one_line():
    # An older file does not name its config: nothing is said about it.
    new = {**report("1 x H200", a=2.0), "config": "configs/vae.py"}
    found = comparison.compare(report(a=3.0), new)
    assert found["differences"] == {"device": ["2 x cpu", "1 x H200"]}
    (line,) = comparison.remarks(found)
    assert "device was '2 x cpu', is '1 x H200'" in line


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", "[" * 10**5),
        '{"measurements": {"a": {"wall_ms": {"median": 1}}}}',
        json.dumps(report(a=1.5)),  # a shortest time of 0
        json.dumps(report(a=3.0)).replace("3.0", '"3.0"'),
    ],
)
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no result of the benchmark"):
        comparison.read_report(str(path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json .*No such file"):
        comparison.read_report(str(tmp_path / "none.json"))


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report(a=3.0)))
    assert comparison.read_report(str(path)) == report(a=3.0)
