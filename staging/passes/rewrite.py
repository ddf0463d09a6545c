"""What passes are written on: rebuilding a block, operation by operation, with values replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from staging.ir import Attributes, Block, Builder, Literal, Op, Program, Value

Rewrite = Callable[["Rebuilt", Op, tuple[Value, ...]], Sequence[Value] | None]
Nested = Callable[[Block], Block]


class Rebuilt(Builder):
    """A block that is being written again; it knows which operation made each new value."""

    def __init__(self) -> None:
        super().__init__()
        self.makers: dict[Value, Op] = {}

    def write(
        self,
        name: str,
        inputs: tuple[Value, ...],
        attributes: Attributes,
        blocks: tuple[Block, ...] = (),
    ) -> tuple[Value, ...]:
        results = super().write(name, inputs, attributes, blocks)
        self.made(self.ops[-1])
        return results

    def keep(self, op: Op, inputs: tuple[Value, ...], blocks: tuple[Block, ...]) -> None:
        """Append an operation as it was, but for its inputs and blocks; its results stay."""
        self.ops.append(Op(op.name, inputs, op.results, op.attributes, blocks, op.place))
        self.made(self.ops[-1])

    def made(self, op: Op) -> None:
        """Remember who made the results of an operation."""
        for value in op.results:
            self.makers[value] = op

    def maker(self, value: Value, name: str) -> Op | None:
        """The operation behind a value, if it is a ``name``."""
        op = self.makers.get(value)
        return op if op is not None and op.name == name else None

    def scalar(self, value: Value) -> Value | None:
        """The scalar that a value repeats; the value itself where it is one."""
        if not value.type.shape:
            return value
        op = self.maker(value, "broadcast")
        return self.scalar(op.inputs[0]) if op is not None else None

    def constant(self, value: Value) -> Literal | None:
        """The number that a value, or each element of it, is known to be."""
        scalar = self.scalar(value)
        op = self.maker(scalar, "constant") if scalar is not None else None
        return op.attributes["value"] if op is not None else None


def rewrite(program: Program, rule: Rewrite) -> Program:
    """Rebuild a program and its nested blocks.

    Args:
        program: what to rebuild.
        rule: called with the block written so far, an operation, and its new inputs; returns values
            that stand for its results, for which it may have emitted operations, or None to keep it
            as it is.
    """
    return program.with_block(
        each_block(program.block, lambda b, nested: _rewritten(b, rule, nested))
    )


def each_block(block: Block, change: Callable[[Block, Nested], Block]) -> Block:
    """Change a block and those in it, each once: what several operations share stays shared.

    Args:
        block: the outermost.
        change: called with a block and a function that changes the blocks nested in it.
    """
    changed: dict[Block, Block] = {}

    def once(block: Block) -> Block:
        if block not in changed:
            changed[block] = change(block, once)
        return changed[block]

    return once(block)


def _rewritten(block: Block, rule: Rewrite, nested: Nested) -> Block:
    """Rebuild one block; its parameters stay."""
    out = Rebuilt()
    out.params = list(block.params)
    new: dict[Value, Value] = {}
    for op in block.ops:
        inputs = tuple(new.get(v, v) for v in op.inputs)
        out.place = op.place
        replacement = rule(out, op, inputs)
        if replacement is None:
            out.keep(op, inputs, tuple(map(nested, op.blocks)))
        else:
            new.update(zip(op.results, replacement, strict=True))
    return out.block(*(new.get(v, v) for v in block.results))
