"""Bytes that devices exchange: hand-written programs, and one that XLA has made."""

import json
import os
import subprocess
import sys

import pytest

from jax_vidpred.benchmarking.collectives import (
    Collective,
    collectives,
    totals,
)

HEAD = "HloModule jit_step, is_scheduled=true, replica_count=1, num_partitions=8\n\n"


def program(*lines, before=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"{HEAD}{before}ENTRY %main (x: f32[4]) -> f32[4] {{\n{body}\n}}\n"


def computation(name, *lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"%{name} (arg: (s32[], f32[4])) -> (s32[], f32[4]) {{\n{body}\n}}\n\n"


@pytest.mark.parametrize(
    "line, kind, num_bytes",
    [
        ("%a = f32[8,4]{1,0} all-reduce(%x), to_apply=%add", "all-reduce", 8 * 4 * 4),
        # A tuple, as the combiner makes it, with XLA's comment and a scalar.
        (
            "ROOT %a = (f32[3]{0}, bf16[2,5]{1,0}, /*index=2*/pred[7]{0}, f32[]) "
            "all-reduce(%x, %y, %z, %w), replica_groups={}, to_apply=%add",
            "all-reduce",
            3 * 4 + 2 * 5 * 2 + 7 + 4,
        ),
        # Tiles of TPUs have brackets of their own.
        (
            "%g = bf16[64,128]{1,0:T(8,128)(2,1)} all-gather(%x), dimensions={0}",
            "all-gather",
            64 * 128 * 2,
        ),
        # What is given, not the eighth, quarter or half that is left.
        (
            "%r = f32[5]{0} reduce-scatter(%x), replica_groups=[1,8]<=[8]",
            "reduce-scatter",
            5 * 4 * 8,
        ),
        (
            "%r = f32[5]{0} reduce-scatter(%x), replica_groups={{0,1,2,3},{4,5,6,7}}",
            "reduce-scatter",
            5 * 4 * 4,
        ),
        (
            "%r = f32[5]{0} reduce-scatter(%x), "
            "replica_groups=mesh['data'=4,'fsdp'=2] {'fsdp'}, dimensions={0}",
            "reduce-scatter",
            5 * 4 * 2,
        ),
        (
            "%r = f32[5]{0} reduce-scatter(%x), replica_groups={}",
            "reduce-scatter",
            5 * 4 * 8,
        ),
        (
            "%t = (f32[2]{0}, f32[2]{0}) all-to-all(%x, %y)",
            "all-to-all",
            2 * 2 * 4,
        ),
        (
            "%p = u8[9]{0} collective-permute(%x), source_target_pairs={{0,1}}",
            "collective-permute",
            9,
        ),
        ("%f = f8e4m3fn[16]{0} all-gather(%x)", "all-gather", 16),
    ],
)
def test_one_instruction(line, kind, num_bytes):
    assert collectives(program(line)) == [Collective(kind, num_bytes)]


def test_what_is_asynchronous_counts_once():
    text = program(
        "%s = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), dimensions={0}",
        "%d = f32[32]{0} all-gather-done(%s)",
        "%ps = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x)",
        "%pd = f32[4]{0} collective-permute-done(%ps)",
        # The general form keeps the instruction in a computation of its own.
        "%as = ((f32[4]{0}), f32[2]{0}) async-start(%x), calls=%wrapped",
        "%ad = f32[2]{0} async-done(%as), calls=%wrapped",
        before=computation("wrapped", "%r = f32[2]{0} reduce-scatter(%x)"),
    )
    assert collectives(text) == [
        Collective("all-gather", 32 * 4),
        Collective("collective-permute", 4 * 4),
        Collective("reduce-scatter", 2 * 4 * 8),
    ]


def test_loops_count_every_turn_also_in_each_other():
    inner = computation("inner", "%a = f32[4]{0} all-reduce(%x), to_apply=%add")
    outer = computation(
        "outer",
        "%b = f32[10]{0} all-gather(%x)",
        "%w = (s32[], f32[4]{0}) while(%t), condition=%less, body=%inner, "
        'backend_config={"known_trip_count":{"n":"3"}}',
    )
    text = program(
        "ROOT %w = (s32[], f32[4]{0}) while(%t), condition=%less, body=%outer, "
        'backend_config={"known_trip_count":{"n":"5"},"known_init_step":{}}',
        before=inner + outer + computation("less", "%p = pred[] compare(%i, %n)"),
    )
    assert collectives(text) == [
        Collective("all-gather", 40, 5),
        Collective("all-reduce", 16, 15),
    ]


def test_totals_by_kind():
    found = [
        Collective("all-reduce", 8),
        Collective("all-gather", 40, 5),
        Collective("all-reduce", 16, 15),
    ]
    assert totals(found) == {
        "all-reduce": {"count": 16, "bytes": 8 + 16 * 15},
        "all-gather": {"count": 5, "bytes": 40 * 5},
    }
    assert totals([]) == {}


@pytest.mark.parametrize("where", ["body", "condition"])
def test_loop_of_unknown_length(where):
    other = {"body": "condition", "condition": "body"}[where]
    text = program(
        f"ROOT %w = (s32[], f32[4]{{0}}) while(%t), {other}=%none, {where}=%sum",
        before=computation("sum", "%a = f32[4]{0} all-reduce(%x), to_apply=%add")
        + computation("none", "%p = pred[] compare(%i, %n)"),
    )
    with pytest.raises(ValueError, match="unknown length has all-reduce in it"):
        collectives(text)
    # Nothing in it: nobody need know its length.
    assert collectives(text.replace("all-reduce", "negate")) == []


def test_calls_and_the_larger_branch():
    small = computation("small", "%a = f32[1]{0} all-reduce(%x), to_apply=%add")
    large = computation("large", "%a = f32[9]{0} all-gather(%x)")
    text = program(
        "%c = f32[4]{0} call(%x), to_apply=%small",
        "%d = f32[4]{0} conditional(%i, %x, %x), branch_computations={%small, %large}",
        before=small + large,
    )
    found = [Collective("all-reduce", 4), Collective("all-gather", 36)]
    assert collectives(text) == found


def test_names_that_only_look_like_collectives():
    text = program(
        "%all-reduce.1 = f32[4]{0} fusion(%all-gather.2), kind=kLoop, calls=%body",
        '%b = f32[4]{0} add(%x, %x), metadata={op_name="all-reduce(x)"}',
        before=computation("body", "%m = f32[4]{0} multiply(%x, %x)"),
    )
    assert collectives(text) == []


def test_text_of_something_else():
    with pytest.raises(ValueError, match="wanted the text of a compiled program"):
        collectives("module @jit_f { }")


SCRIPT = """
import jax, json
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jax_vidpred.benchmarking.collectives import collectives, totals

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

def over_devices(function, out):
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=out)
    ).lower(jnp.ones((8, 6))).compile()

def in_loop(x):
    def turn(total, _):
        return jax.lax.psum(total * x, "data") * x, None
    return jax.lax.scan(turn, x, length=7)[0]

whole = NamedSharding(mesh, P())
rows = NamedSharding(mesh, P("data"))
split = jax.ShapeDtypeStruct((16, 5), jnp.float32, sharding=rows)
found = [
    over_devices(lambda x: jax.lax.psum(x, "data"), P()),
    over_devices(in_loop, P("data")),
    jax.jit(lambda x: x, out_shardings=whole).lower(split).compile(),
]
print(json.dumps([totals(collectives(one.as_text())) for one in found]))
"""


@pytest.mark.slow
def test_programs_of_eight_devices():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PJRT_NPROC": "16",
    }
    line = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    summed, looped, gathered = json.loads(result.stdout)
    # Each device gives its row of 6 numbers to the sum, in the loop seven times.
    assert summed == {"all-reduce": {"count": 1, "bytes": 6 * 4}}
    assert looped == {"all-reduce": {"count": 7, "bytes": 7 * 6 * 4}}
    assert gathered == {"all-gather": {"count": 1, "bytes": 16 * 5 * 4}}
