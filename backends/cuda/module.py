"""A program as one translation unit of CUDA C++, with the steps that launch its kernels.

Every operation that holds no control flow is lowered once, wherever it stands; kernels of one text
are written once, whoever launches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from textwrap import indent, wrap
from typing import cast

from backends.cuda import prelude, scalars
from backends.cuda.lowering import lower
from backends.cuda.moving import UNITS, mover
from backends.cuda.steps import Kernel, Launch, Lowering, Step, scratch
from staging.ir import NODE, Block, Op, Program, Type, Value
from staging.recursion import functions_of

WIDTH = 96  # of the lines of a kernel's parameters
# What the host performs (`control`); all else is lowered to steps.
CONTROL = frozenset(
    ("call", "switch", "scan", "while", "empty", "extent", "print", "require", "reshape", "recurse",
     "pack", "unpack", "tag", "merge", "agenda", "unwind")
)  # fmt: skip


def is_control(op: Op) -> bool:
    """Whether the host performs an operation."""
    if op.name == "call":
        return "kind" not in op.attributes
    if scalars.is_scan(op):
        return False
    lists = any(v.type.is_list for v in op.results)
    return op.name in CONTROL or (op.name == "add" and lists)


@dataclass(slots=True)
class Module:
    """What a program becomes.

    Attributes:
        steps: of each operation that is lowered.
        scratch: what those work with besides operands and results.
        names: of the kernels, their headers apart, in the order in which they are written.
        headers: of these.
        adders: an `add` of each type of which the host adds arrays: those of lists and nodes.
        loops: some steps of each `while` of numbers, and what says whether it goes on.
        scatters: for what ways through recursive functions add to sums, by the types of the sum,
            the value and the indices.
        source: the translation unit.
    """

    steps: dict[Op, Sequence[Step]] = field(default_factory=dict[Op, "Sequence[Step]"])
    scratch: dict[Op, Sequence[Value]] = field(default_factory=dict[Op, "Sequence[Value]"])
    names: dict[Kernel, str] = field(default_factory=dict[Kernel, str])
    headers: dict[Kernel, tuple[str, ...]] = field(default_factory=dict[Kernel, "tuple[str, ...]"])
    adders: dict[Type, Op] = field(default_factory=dict[Type, Op])
    loops: dict[Op, tuple[Launch, Value]] = field(default_factory=dict[Op, "tuple[Launch, Value]"])
    scatters: dict[tuple[Type, ...], Op] = field(default_factory=dict[tuple[Type, ...], Op])
    source: str = ""

    def add(self, op: Op, steps: Sequence[Step]) -> None:
        """Take the steps of an operation."""
        self.steps[op] = steps
        self.scratch[op] = scratch(steps, op)
        for step in steps:
            if isinstance(step, Launch):
                self.name(step.kernel)

    def name(self, kernel: Kernel) -> str:
        """The name of a kernel, which says what it does, with a number where others do so too."""
        text = replace(kernel, header=())
        if text not in self.names:
            count = [other.stem for other in self.names].count(kernel.stem)
            self.names[text] = f"{kernel.stem}_{count + 1}" if count else kernel.stem
            self.headers[text] = kernel.header
        return self.names[text]


def written(
    program: Program,
    lowering: Lowering = lower,
    looping: Callable[[Op, Value], Launch] = scalars.while_,
) -> Module:
    """The module of an optimised program.

    Args:
        program: what is written.
        lowering: gives the steps of an operation.
        looping: some steps of a `while` of numbers, and the value that says whether it goes on.

    Raises:
        NotImplementedError: it has an operation that this backend does not know.
    """
    module = Module()
    for op in performed(program.block, set()):
        if not is_control(op):
            module.add(op, lowering(op))
        if scalars.is_while(op):
            going = Value(Type("bool"), "going")
            module.loops[op] = looping(op, going), going
            module.name(module.loops[op][0].kernel)
        if op.name in ("agenda", "unwind"):
            for unit in UNITS:
                module.name(mover(unit))
        for extra in of_the_host(module, op):
            module.add(extra, lowering(extra))
    helpers = {name for kernel in module.names for name in kernel.helpers}
    texts = [kernel_text(name, kernel, module.headers[kernel])
             for kernel, name in module.names.items()]  # fmt: skip
    head = f"// The kernels of {program.name}, in the order in which they are first launched."
    called = prelude.declarations(helpers).strip("\n")
    module.source = "\n\n".join([head, *([called] if called else []), *texts]) + "\n"
    return module


def performed(block: Block, seen: set[Block]) -> Iterator[Op]:
    """The operations that run on the device, or hold blocks, each block once. The blocks by which
    an `agenda` finds its calls run on the host."""
    if block in seen:
        return
    seen.add(block)
    for op in block.ops:
        inner = op.blocks
        if op.name == "agenda":
            inner = inner[len(cast("tuple[int, ...]", op.attributes["args"])) :]
        if is_control(op) and not scalars.is_while(op):
            for one in inner:
                yield from performed(one, seen)
        if op.name != "recur":
            yield op


def of_the_host(module: Module, op: Op) -> Iterator[Op]:
    """Operations that the host performs by itself while it performs another one."""
    if op.name == "unpack":
        yield from (a for v in op.results if (a := adder(module, v.type)))
    if op.name == "add" and is_control(op):
        type = op.results[0].type
        if a := adder(module, Type(type.dtype, type.shape[type.shape.index(-1) + 1 :])):
            yield a
    if op.name == "recurse":
        for body in (b for f in functions_of(op) for b in f.body.all()):
            for added, value, indices in body.parts(body.block.results):
                total = op.results[len(op.results) - sums(op) + added.sum].type
                one = scatterer(module, (total, value.type, *(v.type for v in indices)))
                if one:
                    yield one


def sums(op: Op) -> int:
    """How many sums a `recurse` gives."""
    return len(cast("tuple[object, ...]", op.attributes["sums"]))


def adder(module: Module, type: Type) -> Op | None:
    """An `add` of arrays of a type, if there was none and there can be one."""
    if type in module.adders or type.is_list or type.dtype in (NODE, "bool"):
        return None
    x, y, z = Value(type, "x"), Value(type, "y"), Value(type, "sum")
    module.adders[type] = Op("add", (x, y), (z,))
    return module.adders[type]


def scatterer(module: Module, types: tuple[Type, ...]) -> Op | None:
    """A `scatter`, or an `add`, of operands of these types, if there was none."""
    if len(types) == 2:
        return adder(module, types[0])
    if types in module.scatters:
        return None
    inputs = tuple(map(Value, types))
    module.scatters[types] = Op("scatter", inputs, (Value(types[0], "sum"),), {"kind": "sum"})
    return module.scatters[types]


def kernel_text(name: str, kernel: Kernel, header: Sequence[str]) -> str:
    """A kernel as CUDA C++."""
    comments = "".join(f"// {line}\n" for line in header)
    bounds = f"__launch_bounds__({kernel.bounds})"
    head = f'extern "C" __global__ void {bounds} {name}'
    params = ", ".join(kernel.params)
    if len(head) + len(params) > WIDTH:
        whole = ", ".join(param.replace(" ", "\0") for param in kernel.params)  # no break inside
        params = "\n" + indent("\n".join(wrap(whole, WIDTH)), "    ").replace("\0", " ")
    return f"{comments}{head}({params})\n{{\n{kernel.body.strip(chr(10))}\n}}"
