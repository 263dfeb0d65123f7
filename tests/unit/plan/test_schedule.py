"""The time of a program by its loops and by its schedule, and what its instructions move, on text
whose numbers are checked by hand: 1 FLOP, 1 byte and one sent byte take a second.
"""

# ruff: noqa: E501  (programs as XLA prints them)
from __future__ import annotations

import pytest

from scalingnote_jax.plan.hlo import parse
from scalingnote_jax.plan.matmuls import total_flops
from scalingnote_jax.plan.schedule import Rates, ScheduledProgram
from scalingnote_jax.plan.traffic import moved_bytes

SLOW = 1e-12  # of a unit that costs nothing in a test


def scheduled(text: str, flops: float = 1.0, hbm: float = 1 / SLOW) -> ScheduledProgram:
    rates = Rates(flops, hbm, lambda transfer: float(transfer.bytes), partitions=2)
    return ScheduledProgram(parse(text), rates)


def program(*lines: str, before: str = "") -> str:
    """A program with p: f32[4,8], w: f32[8,2] and x: f32[16]."""
    parameters = [
        "  %p = f32[4,8]{1,0} parameter(0)",
        "  %w = f32[8,2]{1,0} parameter(1)",
        "  %x = f32[16]{0} parameter(2)",
    ]
    rows = [*parameters, *(f"  %{line}" for line in lines[:-1]), f"  ROOT %{lines[-1]}"]
    head = "ENTRY %main (p: f32[4,8], w: f32[8,2], x: f32[16]) -> f32[4,2] {"
    return "\n".join([before, head, *rows, "}"])


DOT = "dot.{} = f32[4,2]{{1,0}} dot(%p, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"
DOT_SECS = 2 * 4 * 8 * 2
START = "s = (f32[16]{0}, f32[32]{0}) all-gather-start(%x), replica_groups=[1,2]<=[2]"
DONE = "d = f32[32]{0} all-gather-done(%s)"
GATHER = "g = f32[32]{0} all-gather(%x), replica_groups=[1,2]<=[2]"
SENT_SECS = 64  # a device sends its 16 numbers to the other one


def test_what_is_started_before_a_product_runs_beside_it():
    schedule = scheduled(program(START, DOT.format(0), DONE, DOT.format(1)))
    assert schedule.secs == pytest.approx(2 * DOT_SECS)
    assert schedule.least_secs == pytest.approx(2 * DOT_SECS)
    assert not schedule.synchronous


def test_what_is_waited_for_at_once_is_not_overlapped():
    schedule = scheduled(program(START, DONE, DOT.format(0), DOT.format(1)))
    assert schedule.secs == pytest.approx(2 * DOT_SECS + SENT_SECS)
    assert schedule.least_secs == pytest.approx(2 * DOT_SECS)  # another order could


def test_a_synchronous_collective_stops_the_products():
    schedule = scheduled(program(DOT.format(0), GATHER, DOT.format(1)))
    assert schedule.secs == schedule.least_secs == pytest.approx(2 * DOT_SECS + SENT_SECS)
    assert [(t.kind, t.bytes, t.times) for t in schedule.synchronous] == [("all-gather", 64, 1)]


def test_two_transfers_share_the_links():
    second = START.replace("s =", "s2 ="), DONE.replace("d =", "d2 =").replace("%s", "%s2")
    schedule = scheduled(program(START, second[0], DOT.format(0), DONE, second[1]))
    assert schedule.secs == pytest.approx(2 * SENT_SECS)


def test_a_gather_in_pieces_inside_of_products():
    """As TPUs write an overlapped gather: a part of it in each of two fusions with a product."""
    part = """
%part.{n} (a: f32[4,8], b: f32[8,2], c: f32[16]) -> f32[4,2] {{
  %a = f32[4,8]{{1,0}} parameter(0)
  %b = f32[8,2]{{1,0}} parameter(1)
  %c = f32[16]{{0}} parameter(2)
  %g.{n} = f32[32]{{0}} all-gather(%c), channel_id=1, replica_groups=[1,2]<=[2], frontend_attributes={{chain_id="3"}}
  ROOT %dot.{n} = f32[4,2]{{1,0}} dot(%a, %b), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}"""
    fusions = [
        f"f.{n} = f32[4,2]{{1,0}} fusion(%p, %w, %x), kind=kOutput, calls=%part.{n}" for n in (1, 2)
    ]
    text = program(*fusions, before=part.format(n=1) + part.format(n=2))
    schedule = scheduled(text)
    assert schedule.secs == pytest.approx(2 * DOT_SECS)
    assert not schedule.synchronous
    # Faster products wait for it; it is sent once.
    assert scheduled(text, flops=1e6).secs == pytest.approx(SENT_SECS, rel=1e-3)


BODY = """
%body (q: (s32[], f32[4,8], f32[3,8,2], f32[16])) -> (s32[], f32[4,8], f32[3,8,2], f32[16]) {
  %q = (s32[], f32[4,8]{1,0}, f32[3,8,2]{2,1,0}, f32[16]{0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  %h = f32[4,8]{1,0} get-tuple-element(%q), index=1
  %stack = f32[3,8,2]{2,1,0} get-tuple-element(%q), index=2
  %y = f32[16]{0} get-tuple-element(%q), index=3
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %f = f32[4,2]{1,0} fusion(%h, %stack, %i), kind=kOutput, calls=%layer
  %g = f32[32]{0} all-gather(%y), replica_groups=[1,2]<=[2]
  ROOT %o = (s32[], f32[4,8]{1,0}, f32[3,8,2]{2,1,0}, f32[16]{0}) tuple(%next, %h, %stack, %y)
}
%cond (q.1: (s32[], f32[4,8], f32[3,8,2], f32[16])) -> pred[] {
  %q.1 = (s32[], f32[4,8]{1,0}, f32[3,8,2]{2,1,0}, f32[16]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%q.1), index=0
  %limit = s32[] constant(3)
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}
"""
LAYER = """
%layer (a: f32[4,8], b: f32[3,8,2], j: s32[]) -> f32[4,2] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[3,8,2]{2,1,0} parameter(1)
  %j = s32[] parameter(2)
  %zero = s32[] constant(0)
  %own = f32[1,8,2]{2,1,0} dynamic-slice(%b, %j, %zero, %zero), dynamic_slice_sizes={1,8,2}
  %m = f32[8,2]{1,0} bitcast(%own)
  ROOT %dot = f32[4,2]{1,0} dot(%a, %m), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
LOOP = (
    LAYER
    + BODY
    + """
ENTRY %main (p: f32[4,8], s: f32[3,8,2], x: f32[16]) -> f32[32] {
  %p = f32[4,8]{1,0} parameter(0)
  %s = f32[3,8,2]{2,1,0} parameter(1)
  %x = f32[16]{0} parameter(2)
  %n = s32[] constant(0)
  %t = (s32[], f32[4,8]{1,0}, f32[3,8,2]{2,1,0}, f32[16]{0}) tuple(%n, %p, %s, %x)
  %first = (s32[], f32[4,8]{1,0}, f32[3,8,2]{2,1,0}, f32[16]{0}) while(%t), condition=%cond, body=%body
  ROOT %g.2 = f32[32]{0} all-gather(%x), replica_groups=[1,2]<=[2]
}
"""
)


def test_loops_run_one_after_another():
    schedule = scheduled(LOOP)
    loop, outside = schedule.phases["first, 3 trips"], schedule.phases["outside of loops"]
    assert loop.compute == pytest.approx(3 * DOT_SECS)
    assert loop.synchronous == pytest.approx(3 * SENT_SECS)
    assert outside.synchronous == pytest.approx(SENT_SECS)
    assert schedule.least_secs == pytest.approx(3 * DOT_SECS + 4 * SENT_SECS)
    assert schedule.secs == pytest.approx(schedule.least_secs)
    assert [t.times for t in schedule.synchronous] == [3, 1]


def test_of_a_stack_of_layers_one_layer_is_read():
    module = parse(LOOP)
    body = module.computations["body"]
    # p, one matrix of the three, the index and the result
    moved = moved_bytes(module, body, body.instructions["f"])
    assert moved == 4 * (4 * 8 + 8 * 2 + 1 + 4 * 2)


def test_of_a_replaced_part_the_part_is_written():
    text = """
%put (a: f32[3,8], b: f32[1,8], i: s32[]) -> f32[3,8] {
  %a = f32[3,8]{1,0} parameter(0)
  %b = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %r = f32[3,8]{1,0} dynamic-update-slice(%a, %b, %i, %i)
}
ENTRY %main (a.1: f32[3,8], b.1: f32[1,8], i.1: s32[]) -> f32[3,8] {
  %a.1 = f32[3,8]{1,0} parameter(0)
  %b.1 = f32[1,8]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  ROOT %f = f32[3,8]{1,0} fusion(%a.1, %b.1, %i.1), kind=kLoop, calls=%put
}
"""
    module = parse(text)
    assert moved_bytes(module, module.entry, module.entry.root) == 2 * 4 * 8 + 4


def test_the_attention_kernel_counts_by_its_operands():
    """Forward two products, for the queries' gradient three, for that of keys and values four."""
    call = (
        '%c = f32[2,4,256,64]{3,2,1,0} custom-call(%q, %k), custom_call_target="tpu_custom_call",'
        ' metadata={op_name="jit(f)/splash_mha_PHASE_segmented/pallas_call"}'
    )
    text = f"""
ENTRY %main (q: f32[2,4,256,64], k: f32[2,4,256,64]) -> f32[2,4,256,64] {{
  %q = f32[2,4,256,64]{{3,2,1,0}} parameter(0)
  %k = f32[2,4,256,64]{{3,2,1,0}} parameter(1)
  ROOT {call}
}}
"""
    one = 2 * 2 * 4 * 256 * 256 * 64
    counts = [total_flops(parse(text.replace("PHASE", p))) / one for p in ("fwd", "dq", "dkv")]
    assert counts == [2, 3, 4]
