"""Reading a compiled program: loops, products and collectives, on text whose numbers are checked by
hand.
"""

# ruff: noqa: E501  (programs as XLA prints them)
from __future__ import annotations

import pytest

from scalingnote_jax.plan.collectives import axis_of, summed, transfers
from scalingnote_jax.plan.hlo import parse
from scalingnote_jax.plan.matmuls import total_flops

LOOP = """
HloModule jit_step, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (x: bf16[4,8], w: bf16[8,16]) -> bf16[4,16] {
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %dot.1 = bf16[4,16]{1,0:T(8,128)(2,1)} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (p: (s32[], bf16[4,8], bf16[2,16])) -> (s32[], bf16[4,8], bf16[2,16]) {
  %p = (s32[], bf16[4,8]{1,0}, /*index=2*/bf16[2,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x.1 = bf16[4,8]{1,0} get-tuple-element(%p), index=1
  %part = bf16[2,16]{1,0} get-tuple-element(%p), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %w.1 = bf16[8,16]{1,0} all-gather(%part), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
  %y = bf16[4,16]{1,0} fusion(%x.1, %w.1), kind=kOutput, calls=%inner
  ROOT %out = (s32[], bf16[4,8]{1,0}, bf16[2,16]{1,0}) tuple(%next, %x.1, %part)
}

%cond (p.1: (s32[], bf16[4,8], bf16[2,16])) -> pred[] {
  %p.1 = (s32[], bf16[4,8]{1,0}, bf16[2,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %limit = s32[] constant(28)
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.2: bf16[4,8], part.1: bf16[2,16]) -> f32[4] {
  %x.2 = bf16[4,8]{1,0} parameter(0)
  %part.1 = bf16[2,16]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[4,8]{1,0}, bf16[2,16]{1,0}) tuple(%zero, %x.2, %part.1)
  %loop = (s32[], bf16[4,8]{1,0}, bf16[2,16]{1,0}) while(%start), condition=%cond, body=%body
  %grad = f32[4]{0} constant({1, 2, 3, 4})
  ROOT %total = f32[4]{0} all-reduce(%grad), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
}
"""
MESH = {"slice": 1, "data": 2, "fsdp": 4, "tensor": 1}


def entry(line: str, *parameters: str) -> str:
    given = [f"  %p{i} = {x} parameter({i})" for i, x in enumerate(parameters)]
    return "\n".join(["ENTRY %main (p: f32[]) -> f32[] {", *given, f"  ROOT %r = {line}", "}"])


def test_a_loop_runs_as_often_as_its_condition_says():
    counts = {i.name: times for _, i, times in parse(LOOP).walk()}
    assert counts["loop"] == 1
    assert counts["w.1"] == 28
    assert counts["dot.1"] == 28  # in a fusion in the loop
    assert "sum" not in counts  # what an all-reduce combines with is no work of its own


def test_a_loop_that_xla_unrolled_counts_in_larger_steps():
    unrolled = LOOP.replace("%one = s32[] constant(1)", "%one = s32[] constant(4)")
    counts = {i.name: times for _, i, times in parse(unrolled).walk()}
    assert counts["w.1"] == counts["dot.1"] == 7


def test_the_compilers_own_trip_count_goes_first():
    noted = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert {i.name: n for _, i, n in parse(noted).walk()}["dot.1"] == 5


def test_flops_of_a_dot():
    assert total_flops(parse(LOOP)) == 28 * 2 * 4 * 8 * 16


@pytest.mark.parametrize(
    ("line", "parameters", "flops"),
    [
        # A plain product, as a TPU writes it.
        (
            "bf16[4,16]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf",
            ("bf16[4,8]{1,0}", "bf16[8,16]{1,0}"),
            2 * 4 * 8 * 16,
        ),
        # Attention scores of 3 rows, 5 × 5 tokens, 2 features: the batch is a dilated window.
        (
            "f32[3,5,5]{2,1,0} convolution(%p0, %p1), window={size=3 stride=2 pad=0_0 lhs_dilate=3},"
            " dim_labels=0bf_0oi->0bf",
            ("f32[3,5,2]{2,1,0}", "f32[3,5,2]{2,1,0}"),
            2 * 3 * 5 * 5 * 2,
        ),
        # A true convolution: 6 places, 3 wide, one of padding on both sides: 3·6 - 2 pairs.
        (
            "f32[1,6,7]{2,1,0} convolution(%p0, %p1), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f",
            ("f32[1,6,4]{2,1,0}", "f32[3,4,7]{2,1,0}"),
            2 * 16 * 4 * 7,
        ),
    ],
)  # fmt: skip
def test_flops_of_a_convolution(line: str, parameters: tuple[str, ...], flops: int):
    assert total_flops(parse(entry(line, *parameters))) == flops


def test_collectives_by_kind_and_axis():
    rows = summed(transfers(parse(LOOP), 8), MESH)
    assert rows == [
        # 3/4 of the gathered 8·16 numbers come from others and as many are sent, 28 times.
        {"kind": "all-gather", "axis": "fsdp", "network": "ici", "bytes": 28 * 192, "count": 28},
        # Four floats, twice half of them.
        {"kind": "all-reduce", "axis": "data", "network": "ici", "bytes": 16, "count": 1},
    ]


@pytest.mark.parametrize(
    ("groups", "axis"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", "fsdp"),
        ("replica_groups=[2,4]<=[8]", "fsdp"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
        ("replica_groups=[1,8]<=[8]", "data+fsdp"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", "fsdp"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", "data"),
        ("replica_groups=mesh['axis_0'=8] {'axis_0'}", "data+fsdp"),
        (
            "replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2],"
            " device_ids=([2,4]T(1,0)) {'axis_0'}",
            "fsdp",
        ),
        ("replica_groups={}", "data+fsdp"),
    ],
)
def test_every_way_to_write_a_group(groups: str, axis: str):
    text = entry(f"f32[64]{{0}} all-gather(%p0), {groups}, dimensions={{0}}", "f32[8]{0}")
    (found,) = transfers(parse(text), 8)
    assert axis_of(found.group, MESH) == axis


def test_a_permutation_sends_its_operand():
    line = "f32[8]{0} collective-permute(%p0), source_target_pairs={{0,0},{1,2},{2,1},{3,3}}"
    (found,) = transfers(parse(entry(line, "f32[8]{0}")), 8)
    assert (found.group, found.bytes) == ((1, 2), 32)


def test_an_overlapped_gather_counts_once():
    step = (
        "  %{n} = f32[64]{{0}} all-gather(%p0), channel_id=3, replica_groups=[1,8]<=[8],"
        ' dimensions={{0}}, frontend_attributes={{chain_id="7"}}'
    )
    lines = [step.format(n=n) for n in ("start", "middle", "done")]
    text = entry("f32[8]{0} negate(%p0)", "f32[8]{0}").replace(
        "  ROOT", "\n".join(lines) + "\n  ROOT"
    )
    assert [t.bytes for t in transfers(parse(text), 8)] == [7 * 32]


def test_a_reduction_that_keeps_a_part_is_a_scatter():
    text = """
%all-reduce-scatter.1 (input: f32[64]) -> f32[8] {
  %input = f32[64]{0} parameter(0)
  %sum = f32[64]{0} all-reduce(%input), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %part = f32[8]{0} dynamic-slice(%sum), dynamic_slice_sizes={8}
}
""" + entry("f32[8]{0} fusion(%p0), kind=kCustom, calls=%all-reduce-scatter.1", "f32[64]{0}")
    (found,) = transfers(parse(text), 8)
    assert (found.kind, found.bytes) == ("reduce-scatter", 7 * 32)


def test_what_goes_through_the_host_goes_over_the_dcn():
    line = (
        "(f32[16]{0}, u32[], token[]) send(%p0, %p1), channel_id=1, is_host_transfer=true,"
        ' frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.243_0"}'
    )
    rows = summed(
        transfers(parse(entry(line, "f32[16]{0}", "token[]")), 16, num_slices=2),
        {"slice": 2, "data": 2, "fsdp": 4, "tensor": 1},
    )
    assert rows == [
        {"kind": "all-reduce", "axis": "slice", "network": "dcn", "bytes": 64, "count": 1}
    ]
