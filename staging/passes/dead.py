"""Dead code: what nothing reads, and that does nothing else; through calls and loops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from staging.ir import Block, Literal, Op, Program, Value
from staging.ops import OPS, TILED

Mask = int  # a set of small numbers, as the bits of an integer
# They stay as they are, but for dead operations in their blocks; and a `while` loses the lists that
# nothing reads.
WHOLE = ("while", "recurse", "agenda", "unwind")


def is_whole(op: Op) -> bool:
    """Whether an operation stays as it is: one of `WHOLE`, or what is tiled, which a backend knows
    by its operands and results."""
    return op.name in WHOLE or op.attributes.get("kind") in TILED


def remove_dead(program: Program) -> Program:
    """Remove operations whose results are not needed; effects stay.

    A called block loses the results that no caller reads, and a loop's body the carries, captures
    and stacked values that have no part in what is read of the loop. A `while` loses lists only.

    Example:
        >>> from staging.text import parse_program
        >>> print(remove_dead(parse_program('''program @p(%x: float32[]) {
        ...   %y = exp(%x): float32[]
        ...   return (%x)
        ... }''')), end="")
        program @p(%x: float32[]) {
          return (%x)
        }
    """
    return program.with_block(_Dead(program.block).result())


def has_effect(op: Op) -> bool:
    """Whether an operation, or one nested in it, does more than compute its results. A `recur` does
    for the functions that call it, but not for the `recurse` that holds them."""
    return OPS[op.name].effect or any(
        has_effect(inner) for b in op.blocks for inner in b.ops if inner.name != "recur"
    )


def bits(mask: Mask) -> list[int]:
    """The numbers in a mask."""
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def operands(op: Op, params: Mask) -> tuple[Value, ...]:
    """The operands behind some parameters of an operation's blocks; and what chooses a block."""
    first = 1 if op.name == "switch" or op.attributes.get("length") == -1 else 0
    return (*op.inputs[:first], *(op.inputs[first + i] for i in bits(params)))


def carries(op: Op) -> Mask:
    """Which parameters, and which results, of the block of a `scan` are its carry."""
    return (1 << cast(int, op.attributes["carried"])) - 1 if op.name == "scan" else 0


def union(masks: Iterable[Mask]) -> Mask:
    """What is in any of some masks."""
    result = 0
    for mask in masks:
        result |= mask
    return result


class _Dead:
    """What each block must compute, found from the outermost inwards until nothing changes."""

    def __init__(self, root: Block) -> None:
        self.root = root
        self.reads: dict[Block, tuple[list[Mask], Mask]] = {}
        self.effects: dict[Block, bool] = {}
        # The results of each block that are read, and the parameters that those need.
        self.wanted: dict[Block, Mask] = {root: (1 << len(root.results)) - 1}
        self.needed: dict[Block, Mask] = {root: (1 << len(root.params)) - 1}
        self.changed = True
        while self.changed:
            self.changed = False
            self.visit(root, set())
        self.rebuilt: dict[Block, Block] = {}

    def result(self) -> Block:
        """The outermost block, whose parameters all stay."""
        return self.rebuild(self.root)

    # What results depend on.

    def dependence(self, block: Block) -> tuple[list[Mask], Mask]:
        """The parameters that each result of a block depends on, and those that its effects do."""
        if block not in self.reads:
            of: dict[Value, Mask] = {p: 1 << i for i, p in enumerate(block.params)}
            effects = 0
            for op in block.ops:
                if not op.blocks or is_whole(op):
                    taken = union(of[v] for v in op.inputs)
                    of |= dict.fromkeys(op.results, taken)
                    effects |= taken if self.kept(op) else 0
                    continue
                for k, value in enumerate(op.results):
                    through = self.through(op, self.closure(op, 1 << k))
                    of[value] = union(of[v] for v in operands(op, through))
                if any(map(self.effectful, op.blocks)):
                    through = self.through(op, self.closure(op, 0))
                    effects |= union(of[v] for v in operands(op, through))
            self.reads[block] = [of[v] for v in block.results], effects
        return self.reads[block]

    def effectful(self, block: Block) -> bool:
        """Whether a block does more than compute its results."""
        if block not in self.effects:
            self.effects[block] = any(map(self.effect, block.ops))
        return self.effects[block]

    def effect(self, op: Op) -> bool:
        """`has_effect` of an operation that a block holds, as those that hold the block see it."""
        own = OPS[op.name].effect and op.name != "recur"
        return own or any(map(self.effectful, op.blocks))

    def closure(self, op: Op, results: Mask) -> Mask:
        """The results of an operation's block that some results of the operation take: a carry that
        the next step reads is one."""
        before = -1
        while op.name == "scan" and before != results:
            before = results
            results |= self.inside(op.blocks[0], results) & carries(op)
        return results

    def inside(self, block: Block, results: Mask) -> Mask:
        """The parameters of a block that some of its results and its effects depend on."""
        masks, effects = self.dependence(block)
        return effects | union(masks[k] for k in bits(results))

    def through(self, op: Op, results: Mask) -> Mask:
        """The parameters that some results of an operation's blocks need."""
        needed = union(self.inside(block, results) for block in op.blocks)
        if op.name == "scan":  # and where a carry starts
            needed |= results & carries(op)
        return needed

    # What is read.

    def visit(self, block: Block, seen: set[Block]) -> None:
        """Find what the blocks in a block must compute."""
        if block in seen:
            return
        seen.add(block)
        live = {block.results[k] for k in bits(self.wanted[block])}
        for op in reversed(block.ops):
            if not (self.kept(op) or live & set(op.results)):
                continue
            if not op.blocks:
                live.update(op.inputs)
                continue
            if is_whole(op):
                for nested in op.blocks:
                    results = (1 << len(nested.results)) - 1
                    if op.name == "while" and nested is op.blocks[1]:
                        results = self.wanted.get(nested, 0) | self.of_step(op, live)
                    self.want(nested, results, (1 << len(nested.params)) - 1)
                live.update(op.inputs)
                continue
            results = union(self.wanted.get(nested, 0) for nested in op.blocks)
            results |= union(1 << k for k, v in enumerate(op.results) if v in live)
            needed = union(self.needed.get(nested, 0) for nested in op.blocks)
            results = self.closure(op, results | needed & carries(op))
            needed |= self.through(op, results)
            for nested in op.blocks:  # the blocks of one operation keep taking and giving the same
                self.want(nested, results, needed)
            live.update(operands(op, needed))
        # A block in it that others hold as well may take more than this one's results need.
        reads = union(1 << i for i, p in enumerate(block.params) if p in live)
        self.want(block, self.wanted[block], self.needed[block] | reads)
        for op in block.ops:
            for nested in op.blocks:
                if nested in self.wanted:
                    self.visit(nested, seen)

    @staticmethod
    def of_step(op: Op, live: set[Value]) -> Mask:
        """The results of the body of a `while` that its carry and the lists that are read need."""
        lists = range(cast(int, op.attributes["carried"]), len(op.blocks[1].results))
        carry = (1 << lists.start) - 1
        return carry | union(1 << k for k in lists if op.results[1 + k] in live)

    def want(self, block: Block, results: Mask, needed: Mask) -> None:
        """Note what a block must compute; where that is more than before, other operations that
        hold the block are looked at again."""
        if (results, needed) != (self.wanted.get(block), self.needed.get(block)):
            self.wanted[block], self.needed[block] = results, needed
            self.changed = True

    def kept(self, op: Op) -> bool:
        """Whether an operation stays even if nothing reads its results."""
        return OPS[op.name].effect or any(map(self.effectful, op.blocks))

    # What is left.

    def rebuild(self, block: Block) -> Block:
        """A block without what is dead."""
        if block not in self.rebuilt:
            results = tuple(block.results[k] for k in bits(self.wanted[block]))
            live = set(results)
            ops: list[Op] = []
            for op in reversed(block.ops):
                if self.kept(op) or live & set(op.results):
                    ops.append(self.shortened(op) if op.blocks else op)
                    live.update(ops[-1].inputs)
            params = tuple(block.params[i] for i in bits(self.needed[block]))
            self.rebuilt[block] = Block(params, tuple(reversed(ops)), results)
        return self.rebuilt[block]

    def shortened(self, op: Op) -> Op:
        """An operation with what is left of its blocks."""
        if is_whole(op):
            blocks, given = tuple(map(self.rebuild, op.blocks)), op.results
            if op.name == "while":
                read = bits(self.wanted[op.blocks[1]])
                given = (given[0], *(given[1 + k] for k in read))
            return Op(op.name, op.inputs, given, op.attributes, blocks, op.place)
        block = op.blocks[0]
        results, needed = self.wanted[block], self.needed[block]
        attributes: dict[str, Literal] = dict(op.attributes)
        if op.name == "scan":
            carried, captured = (cast(int, attributes[k]) for k in ("carried", "captured"))
            attributes["carried"] = len(bits(results & ((1 << carried) - 1)))
            attributes["captured"] = len([
                i for i in bits(needed) if carried <= i < carried + captured
            ])  # fmt: skip
        given = tuple(op.results[k] for k in bits(results))
        blocks = tuple(map(self.rebuild, op.blocks))
        return Op(op.name, operands(op, needed), given, attributes, blocks, op.place)
