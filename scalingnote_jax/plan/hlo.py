"""A compiled program as text → its instructions, and how often each one runs.

The compiler's own cost figures count the body of a loop once; here every instruction comes with the
product of the trip counts of the loops around it. Not for what an instruction costs: that is
`matmuls.py` and `collectives.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_COMMENT = re.compile(r"/\*.*?\*/")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=%?([\w.\-]+)")
_CALLED_LISTS = re.compile(r"\b(?:branch|called)_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_NAME = re.compile(r"%([\w.\-]+)")
_BITS = {"pred": 8, "token": 0}


@dataclass(frozen=True)
class Array:
    """One array of an instruction's type.

    Attributes:
        dtype, dims: "bf16", (4096, 512).
        in_hbm: False for what lies in the chip's own fast memory (layout "S(1)" and above).
    """

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool = True

    @property
    def elements(self) -> int:
        """Of the logical shape, without what tiling adds."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Likewise."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            digits = re.match(r"[a-z]+(\d+)", self.dtype)
            bits = int(digits[1]) if digits else 0
        return self.elements * bits // 8


@dataclass(frozen=True)
class Instruction:
    """`%name = type opcode(operands), attributes`."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    arguments: str  # what stands between the parentheses
    attributes: str

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its type: one, or those of a tuple."""
        return [
            Array(
                dtype,
                tuple(int(d) for d in dims.split(",") if d),
                not re.search(r"S\([1-9]", layout or ""),
            )
            for dtype, dims, layout in _ARRAY.findall(self.type)
        ]


@dataclass
class Computation:
    """A named list of instructions."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """Its result, which XLA prints last."""
        return next(reversed(self.instructions.values()))

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Where an instruction's inputs come from."""
        return [self.instructions[name] for name in instruction.operands]


@dataclass
class Module:
    """A program."""

    computations: dict[str, Computation]
    entry: Computation

    def walk(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every instruction that runs, with its computation and how often it runs in one call of
        the program; those inside of fusions and calls as well, combiners of reductions not.
        """
        yield from self._walk(self.entry, 1)

    def _walk(
        self, computation: Computation, times: int
    ) -> Iterator[tuple[Computation, Instruction, int]]:
        for instruction in computation.instructions.values():
            yield computation, instruction, times
            inner = times * (self.trips(instruction) if instruction.opcode == "while" else 1)
            for name in called(instruction):
                yield from self._walk(self.computations[name], inner)

    def trips(self, loop: Instruction) -> int:
        """How often the body of a `while` runs: what the compiler noted, or else the constant that
        its counter is compared with, in steps of what the body adds to it. JAX's loops count from
        zero in steps of one; those that XLA unrolls take more.
        """
        if noted := _TRIPS.search(loop.attributes):
            return int(noted[1])
        condition = re.search(r"\bcondition=%?([\w.\-]+)", loop.attributes)
        assert condition, loop.attributes
        limits = self._constants(self.computations[condition[1]])
        return max(limits, default=1) // self._step(loop, self.computations[condition[1]])

    def _step(self, loop: Instruction, condition: Computation) -> int:
        """What a loop's body adds to the counter that its condition compares; 1 where that is not
        written out.
        """
        if condition.root.opcode != "compare":
            return 1
        counter = condition.operands(condition.root)[0]
        place, body = _INDEX.search(counter.attributes), _BODY.search(loop.attributes)
        if not place or not body:
            return 1
        inside = self.computations[body[1]]
        grown = inside.operands(inside.root)[int(place[1])]
        if grown.opcode != "add":
            return 1
        steps = [int(i.arguments) for i in inside.operands(grown) if i.opcode == "constant"]
        return max(steps, default=1)

    def _constants(self, computation: Computation) -> list[int]:
        found = []
        for instruction in computation.instructions.values():
            if instruction.opcode == "constant" and instruction.arguments.isdigit():
                found.append(int(instruction.arguments))
            for name in called(instruction):
                found += self._constants(self.computations[name])
        return found


def called(instruction: Instruction) -> list[str]:
    """Computations that run as part of an instruction, loops' conditions left out."""
    if instruction.opcode in _RUN_NOTHING:
        return []
    names = _CALLED.findall(instruction.attributes)
    for listed in _CALLED_LISTS.findall(instruction.attributes):
        names += _NAME.findall(listed)
    return names


# Their `to_apply` combines two numbers; what `async-start` started is counted there
_RUN_NOTHING = {
    "all-reduce",
    "all-reduce-start",
    "async-done",
    "async-update",
    "reduce",
    "reduce-scatter",
    "reduce-window",
    "scatter",
    "select-and-scatter",
    "sort",
}


def parse(text: str) -> Module:
    """The module of a program's text, in the form that XLA prints."""
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        line = _COMMENT.sub("", line).rstrip()
        header = None if line.startswith(" ") else _HEADER.match(line)
        if header:
            current = computations[header[2]] = Computation(header[2])
            entry = current if header[1] else entry
        elif current is not None and " = " in line:
            instruction = _instruction(line.strip())
            current.instructions[instruction.name] = instruction
    assert entry is not None, "no ENTRY in the program's text"
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    name, rest = line.removeprefix("ROOT ").split(" = ", 1)
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    arguments = rest[start + 1 : end]
    return Instruction(
        name.lstrip("%"),
        type_,
        rest[:start],
        tuple(_NAME.findall(arguments)),
        arguments,
        rest[end + 1 :],
    )


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"no closing parenthesis in {text!r}")
