"""Reading NVIDIA's machine code as nvdisasm prints it: functions, basic blocks, the loop that stores."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_SECTION = re.compile(r"^\.text\.(\w+):$")
_LABEL = re.compile(r"^(\.L_x_\d+):$")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")


@dataclass
class Instruction:
    """One instruction: its predicate ("" for none), operation with modifiers, and operands."""

    predicate: str
    operation: str
    operands: str

    @property
    def name(self) -> str:
        return self.operation.split(".")[0]

    @property
    def calls(self) -> bool:
        """Tell whether it enters another function; CALL to a label is a jump out of a loop."""
        return self.name == "CALL" and "$" in self.operands

    @property
    def jumps(self) -> bool:
        return self.name == "BRA" or (self.name == "CALL" and not self.calls)

    @property
    def target(self) -> str | None:
        found = _TARGET.search(self.operands)
        return found.group(1) if found and self.jumps else None


@dataclass
class Block:
    """Instructions between labels and branches, and the numbers of the blocks that may follow."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)


@dataclass
class Function:
    """The blocks of one kernel, in order of address."""

    name: str
    blocks: list[Block]

    @property
    def instructions(self) -> list[Instruction]:
        return [i for block in self.blocks for i in block.instructions]

    def hot_loop(self) -> list[Block]:
        """Return the cycle that takes the fewest instructions a 16-byte store: a turn of the main loop."""
        best: tuple[float, list[int]] | None = None
        for start, block in enumerate(self.blocks):
            if not any(i.operation.startswith("STG.E.128") for i in block.instructions):
                continue
            path = self._shortest_cycle(start)
            if path is None or any(i.calls for n in path for i in self.blocks[n].instructions):
                continue  # the path of odd ends, which divides integers
            stores = _stores(self.blocks[i] for i in path)
            cost = sum(len(self.blocks[i].instructions) for i in path) / stores
            if best is None or cost < best[0]:
                best = cost, path
        if best is None:
            raise ValueError(f"{self.name} has no loop with 16-byte stores")
        return [self.blocks[i] for i in best[1]]

    def whole_loop(self) -> list[Block]:
        """Return all blocks of the loop that `hot_loop` runs through, those off its usual path included."""
        path = [self._number(block) for block in self.hot_loop()]
        # The turn's way back: the one edge of the path that does not go forward in the code.
        bottom, top = next((a, b) for a, b in zip(path, [*path[1:], path[0]], strict=True) if b <= a)
        inside, border = {top, bottom}, [bottom]
        while border:
            here = border.pop()
            before = [i for i, block in enumerate(self.blocks) if here in block.successors]
            border += [i for i in before if i not in inside] if here != top else []
            inside.update(before if here != top else [])
        return [self.blocks[i] for i in sorted(inside)]

    def _number(self, wanted: Block) -> int:
        return next(i for i, block in enumerate(self.blocks) if block is wanted)

    def _shortest_cycle(self, start: int) -> list[int] | None:
        """Dijkstra from the block back to itself, by number of instructions."""
        cost: dict[int, int] = {}
        came: dict[int, int] = {}
        border = [(0, start)]
        while border:
            border.sort()
            so_far, here = border.pop(0)
            after = so_far + len(self.blocks[here].instructions)
            for there in self.blocks[here].successors:
                if there == start:
                    path = [here]
                    while path[-1] != start:
                        path.append(came[path[-1]])
                    return path[::-1]
                if after < cost.get(there, 1 << 60):
                    cost[there], came[there] = after, here
                    border = [b for b in border if b[1] != there] + [(after, there)]
        return None


def _stores(blocks: Iterable[Block]) -> int:
    return sum(i.operation.startswith("STG.E.128") for b in blocks for i in b.instructions)


def parse(text: str) -> dict[str, Function]:
    """Return the functions of a disassembly by name."""
    functions: dict[str, Function] = {}
    current: list[Block] | None = None
    for line in text.splitlines():
        if section := _SECTION.match(line):
            current = [Block()]
            functions[section.group(1)] = Function(section.group(1), current)
        elif current is not None and line.startswith("//------"):
            current = None
        elif current is not None and (label := _LABEL.match(line)):
            if current[-1].instructions:
                current.append(Block())
            current[-1].labels.append(label.group(1))
        elif current is not None and (found := _INSTRUCTION.match(line)):
            words = found.group(1).split(None, 1)
            predicate = words[0] if words[0].startswith("@") else ""
            if predicate:
                words = words[1].split(None, 1)
            current[-1].instructions.append(
                Instruction(predicate, words[0], words[1] if len(words) > 1 else "")
            )
            if current[-1].instructions[-1].jumps or words[0].split(".")[0] in ("EXIT", "RET", "BRX"):
                current.append(Block())
    for function in functions.values():
        _connect(function)
    return functions


def _connect(function: Function) -> None:
    at = {label: i for i, block in enumerate(function.blocks) for label in block.labels}
    for i, block in enumerate(function.blocks):
        last = block.instructions[-1] if block.instructions else None
        if last is not None and last.target in at:
            block.successors.append(at[last.target])
        ends = last is not None and (last.jumps or last.name in ("EXIT", "RET")) and not last.predicate
        if last is not None and last.jumps and ", " in last.operands:
            ends = False  # a branch on a predicate among its operands
        if not ends and i + 1 < len(function.blocks):
            block.successors.append(i + 1)


def count(blocks: list[Block]) -> Counter[str]:
    """Return how often each operation occurs in the blocks."""
    return Counter(i.name for block in blocks for i in block.instructions)
