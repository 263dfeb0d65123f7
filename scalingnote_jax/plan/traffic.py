"""Bytes to and from a chip's memory: every instruction reads its operands and writes its results
once, where they lie there. What is fused is inside of one instruction and moves nothing.

Of an operand that is only sliced the slice counts, as a layer's weights in the stack of all layers;
of a result that is an array with a part replaced, the part: XLA replaces it in place.
"""

from __future__ import annotations

from scalingnote_jax.plan.hlo import Computation, Instruction, Module, called

# They name or pass on what is there. The ends of asynchronous copies are counted at their starts.
_MOVE_NOTHING = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "call",
    "conditional", "opt-barrier", "partition-id", "replica-id", "domain", "async-done",
    "async-update", "copy-done", "slice-done", "send", "send-done", "recv", "recv-done",
    "all-gather-done", "all-reduce-done", "collective-permute-done",
}  # fmt: skip
_SLICES = {"slice", "dynamic-slice", "gather", "slice-start"}
_PASSES_ON = {"bitcast", "get-tuple-element", "opt-barrier"}


def moved_bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Read and written by one run of an instruction that stands in a program's own sequence, not
    in a fusion.
    """
    if instruction.opcode in _MOVE_NOTHING:
        return 0
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _held(computation.operands(instruction)[1])
    if instruction.opcode in _SLICES:
        return 2 * _first(instruction)
    operands = computation.operands(instruction)
    if instruction.opcode == "fusion":
        inside = module.computations[called(instruction)[0]]
        read = sum(
            min(_held(operand), _read(module, inside, name))
            for operand, name in zip(operands, _parameters(inside), strict=True)
        )
        written = min(_held(instruction), _written(module, inside, inside.root))
        return read + written
    if instruction.opcode.endswith("-start"):  # its type lists operands beside results
        return 2 * _first(instruction)
    return sum(map(_held, operands)) + _held(instruction)


def _held(instruction: Instruction) -> int:
    """Of its arrays, those in the chip's memory."""
    return sum(x.bytes for x in instruction.arrays if x.in_hbm)


def _first(instruction: Instruction) -> int:
    return instruction.arrays[0].bytes if instruction.arrays else 0


def _parameters(computation: Computation) -> list[str]:
    found = [i for i in computation.instructions.values() if i.opcode == "parameter"]
    return [i.name for i in sorted(found, key=lambda i: int(i.arguments))]


def _read(module: Module, computation: Computation, name: str) -> int:
    """Of a value inside a fusion, what its users read."""
    whole, parts = sum(x.bytes for x in computation.instructions[name].arrays), 0
    for user in computation.instructions.values():
        for place, operand in enumerate(user.operands):
            if operand != name:
                continue
            if user.opcode in _SLICES and place == 0:
                parts += _first(user)
            elif user.opcode in _PASSES_ON:
                parts += _read(module, computation, user.name)
            elif user.opcode == "fusion":
                inside = module.computations[called(user)[0]]
                parts += _read(module, inside, _parameters(inside)[place])
            elif user.opcode != "dynamic-update-slice" or place != 0:
                return whole
    return min(parts, whole)


def _written(module: Module, computation: Computation, root: Instruction) -> int:
    if root.opcode == "tuple":
        return sum(_written(module, computation, i) for i in computation.operands(root))
    if root.opcode == "bitcast":
        return _written(module, computation, computation.operands(root)[0])
    if root.opcode == "fusion":
        inside = module.computations[called(root)[0]]
        return _written(module, inside, inside.root)
    if root.opcode == "dynamic-update-slice":
        return sum(x.bytes for x in computation.operands(root)[1].arrays)
    return sum(x.bytes for x in root.arrays)
