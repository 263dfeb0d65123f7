"""How long a compiled program takes at least, in two ways.

By phase: loops run one after another, each at least as long as what it computes, moves or sends;
inside a loop these are taken to overlap perfectly, but for collectives that the compiler left
synchronous, during which no product runs. No order of the same instructions is faster.

By its schedule: instruction after instruction in the compiler's order, each as long as the larger
of its products and its memory traffic. What was started in the background goes on meanwhile, on one
queue for the memory, one for the links and one for the data-centre network, and is waited for where
the program waits. Every unit is still taken to run at its peak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scalingnote_jax.plan.collectives import Transfer, chain_of, transfer_of
from scalingnote_jax.plan.hlo import Computation, Instruction, Module, called
from scalingnote_jax.plan.matmuls import flops
from scalingnote_jax.plan.traffic import moved_bytes

OUTSIDE = "outside of loops"


@dataclass(frozen=True)
class Rates:
    """What one device can do, and of how many the program is.

    Attributes:
        flops, hbm: FLOP/s, and bytes/s to and from its memory.
        transfer_secs: of a transfer that has its network for itself.
        partitions, num_slices: as for `collectives.transfers`.
    """

    flops: float
    hbm: float
    transfer_secs: Callable[[Transfer], float]
    partitions: int
    num_slices: int = 1


@dataclass
class Phase:
    """All runs of a loop together, or what stands outside of loops; seconds.

    Attributes:
        compute, hbm: of products, and of memory traffic.
        ici, dcn: of what is sent in the background.
        synchronous: of collectives during which nothing is computed.
    """

    name: str
    compute: float = 0.0
    hbm: float = 0.0
    ici: float = 0.0
    dcn: float = 0.0
    synchronous: float = 0.0

    @property
    def secs(self) -> float:
        """At least."""
        return max(self.compute + self.synchronous, self.hbm, self.ici + self.synchronous, self.dcn)


@dataclass
class _Clock:
    """When each unit is free, in seconds from the beginning of a computation."""

    now: float = 0.0
    hbm: float = 0.0
    ici: float = 0.0
    dcn: float = 0.0
    ends: dict[str, float] = field(default_factory=dict)  # of what runs in the background

    def queue(self, unit: str, secs: float) -> float:
        """Puts work on a unit; when it ends."""
        if not secs:
            return self.now
        end: float = max(self.now, getattr(self, unit)) + secs
        setattr(self, unit, end)
        return end


@dataclass(frozen=True)
class _Content:
    """Of one instruction with all that it calls: its products, and what it sends, each with its
    chain ("" for none).
    """

    flops: int = 0
    sends: tuple[tuple[Transfer, str], ...] = ()

    def __add__(self, other: _Content) -> _Content:
        return _Content(self.flops + other.flops, self.sends + other.sends)


class ScheduledProgram:
    """A program read in its order.

    Attributes:
        phases: in the order in which they begin.
        synchronous: the collectives that nothing overlaps, each as often as it runs.
        secs: of one call of the program, by its schedule.
    """

    def __init__(self, module: Module, rates: Rates):
        self.module, self.rates = module, rates
        self.phases: dict[str, Phase] = {}
        self.synchronous: list[Transfer] = []
        self._contents: dict[str, _Content] = {}
        self.secs = self._run(module.entry, 1, OUTSIDE, _Clock())

    @property
    def least_secs(self) -> float:
        """Of one call of the program, by phase."""
        return sum(phase.secs for phase in self.phases.values())

    def _run(self, computation: Computation, times: int, name: str, clock: _Clock) -> float:
        """Runs a computation once by the clock, counts it `times` in the phase; when it ends."""
        phase = self.phases.setdefault(name, Phase(name))
        last: dict[str, str] = {}  # chain → where it ends
        for instruction in computation.instructions.values():
            for _, chain in self._content(computation, instruction).sends:
                last[chain] = instruction.name
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                trips = self.module.trips(instruction)
                inner = f"{instruction.name}, {trips} trips"
                for body in self._called(instruction):
                    clock.now += trips * self._run(body, times * trips, inner, _Clock())
            elif instruction.opcode in ("call", "conditional"):
                for body in self._called(instruction):
                    self._run(body, times, name, clock)
            else:
                self._step(computation, instruction, times, phase, clock)
                for _, chain in self._content(computation, instruction).sends:
                    if chain and last[chain] == instruction.name:
                        clock.now = max(clock.now, clock.ends.pop(chain, 0.0))
        return clock.now

    def _called(self, instruction: Instruction) -> list[Computation]:
        return [self.module.computations[name] for name in called(instruction)]

    def _content(self, computation: Computation, instruction: Instruction) -> _Content:
        key = f"{computation.name}/{instruction.name}"
        if key not in self._contents:
            sent = transfer_of(
                computation, instruction, self.rates.partitions, self.rates.num_slices
            )
            sends = ((sent, chain_of(instruction)),) if sent else ()
            total = _Content(flops(computation, instruction), sends)
            for inner in self._called(instruction) if instruction.opcode != "while" else ():
                for each in inner.instructions.values():
                    total += self._content(inner, each)
            self._contents[key] = total
        return self._contents[key]

    def _step(
        self,
        computation: Computation,
        instruction: Instruction,
        times: int,
        phase: Phase,
        clock: _Clock,
    ) -> None:
        """One instruction that is no loop."""
        content, opcode = self._content(computation, instruction), instruction.opcode
        moving = moved_bytes(self.module, computation, instruction) / self.rates.hbm
        computing = content.flops / self.rates.flops
        phase.hbm += times * moving
        background = opcode.endswith("-start") or opcode in ("send", "recv")
        if opcode.endswith(("-done", "-update")) or opcode == "recv":
            end = max((clock.ends.get(name, 0.0) for name in instruction.operands), default=0.0)
            end = max(end, clock.dcn) if opcode == "recv" else end
            clock.ends[instruction.name] = end
            clock.now = max(clock.now, end) if opcode.endswith("-done") else clock.now
        moved = clock.queue("hbm", moving)
        sent = self._send(content, times, phase, clock, background)
        if background:
            clock.ends[instruction.name] = max(moved, sent, clock.ends.get(instruction.name, 0.0))
        else:
            phase.compute += times * computing
            waits = moved if not content.sends or computing else 0.0
            clock.now = max(clock.now + computing, waits, sent)

    def _send(
        self, content: _Content, times: int, phase: Phase, clock: _Clock, background: bool
    ) -> float:
        """Puts what an instruction sends on its network; when that ends, as far as the instruction
        waits for it: one that multiplies meanwhile does not, nor does a part of a chain.
        """
        end = 0.0
        for transfer, chain in content.sends:
            if chain in clock.ends:
                continue  # under way
            secs, unit = self.rates.transfer_secs(transfer), "dcn" if transfer.dcn else "ici"
            done = clock.queue(unit, secs)
            if chain:
                clock.ends[chain] = done
            if background or chain or content.flops:
                setattr(phase, unit, getattr(phase, unit) + times * secs)
            else:
                phase.synchronous += times * secs
                every = replace(transfer, bytes=times * transfer.bytes, times=times)
                self.synchronous.append(every)
            end = end if chain else max(end, done)
        return end
