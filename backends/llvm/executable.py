"""`compile_program`: from a program to a native function on NumPy arrays."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from backends.llvm import wheel
from backends.llvm.arrays import WORDS, addresses, foreign
from backends.llvm.division import sharing
from backends.llvm.interrupts import INTERRUPTED, interruptible
from backends.llvm.lists import DISCARD, TAKEN
from backends.llvm.module import Module
from backends.llvm.pool import cores, pools
from backends.llvm.results import Results
from backends.llvm.target import Library, features, machine, optimised
from backends.llvm.threads import ERROR
from staging.agenda import captured
from staging.failures import failure
from staging.interpret import numpy_dtype
from staging.ir import IRError, Op, Program, walk
from staging.lengths import Lengths, bound, numbers, sized

Array = np.ndarray[Any, Any]
SIGNATURE = "int32_t(*)(int64_t *, int64_t *, int64_t, int64_t *, void *, int64_t, int64_t)"
CALLBACK = "void(int32_t, void **)"
KEPT = 1024  # lengths of tables that are remembered
NEW: Any = foreign().new


class Sized(NamedTuple):
    """What a program takes and gives for certain lengths of its tables.

    Attributes:
        lengths: by number.
        inputs, outputs: shapes and dtypes.
        array: the lengths as native code reads them; None if there are none.
    """

    lengths: Lengths
    inputs: list[tuple[tuple[int, ...], np.dtype[Any]]]
    outputs: list[tuple[tuple[int, ...], np.dtype[Any]]]
    array: np.ndarray[Any, Any] | None


class Executable:
    """A program as native code; may be called from several threads at once.

    Args:
        program: what was compiled.
        module: what it became.
        codes: the object code of that, if there is some already.
        imports: the functions of BLAS and LAPACK that this calls.

    Attributes:
        source: the LLVM IR that it became, before LLVM's own passes.
        kept: for each result, the position of the donated parameter (`Program.donated`) whose
            array it is returned in; None: it is returned in a fresh array. No donated parameter
            stands there twice.
    """

    def __init__(
        self,
        program: Program,
        module: Module,
        codes: Sequence[bytes] = (),
        imports: Sequence[str] = (),
    ) -> None:
        self.program, self.module = program, module
        self.source, self.kept = module.source, module.kept
        self.codes = codes or compiled(module)
        self.imports = imports or module.imports
        self.library = Library(self.codes, module.exports, wheel.addresses(self.imports))
        ffi = foreign()
        self.entry = ffi.cast(SIGNATURE, self.library.addresses["run"])
        if module.lists:
            discard = ffi.cast("void(*)()", self.library.addresses[DISCARD])
            weakref.finalize(self, _discard, self.library, discard)
        self.shower: Any = ffi.callback(CALLBACK, self.show) if self.module.shown else ffi.NULL
        # Of calls that are done: their pages are warm. And where each begins.
        self.arenas: list[tuple[np.ndarray[Any, Any], int]] = []
        self.results = Results()
        self.inputs = [(v.type.shape, numpy_dtype(v.type.dtype)) for v in program.block.params]
        self.outputs = [(v.type.shape, numpy_dtype(v.type.dtype)) for v in program.block.results]
        self.numbers = numbers(program.block.params)
        firsts = [v.type.shape[:1] for v in program.block.params]
        self.places = [firsts.index((number,)) for number in self.numbers]
        self.fixed = Sized({}, self.inputs, self.outputs, None)
        self.met: dict[tuple[Any, ...], Sized] = {}

    @property
    def assembly(self) -> str:
        """The machine code, as text."""
        return assembly_of(self.source)

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run it.

        Args:
            arrays: an array of the shape and dtype of each parameter. Those of donated parameters
                are writeable and C-contiguous, share memory with no other, and may be written over,
                even by a call that raises in the end. The others are read only; one that is not
                C-contiguous is copied.

        Returns:
            An array for each result: that of the donated parameter which `kept` names, or a fresh
            one.

        Raises:
            IRError: the arrays are not of the parameters' types, or a donated one cannot be written
                over.
            IndexFailure: a gather or scatter outside its operand; with the user's line.
            MatrixFailure: a matrix that cannot be decomposed.
            RequirementFailure: a `require` that does not hold.
            MemoryError: there is no memory for the arena.
            KeyboardInterrupt: the user interrupted a loop.
        """
        types = self.sized(arrays)
        given = self.checked(arrays, types)
        return self.run(given, addresses(given), types)

    def trusting(self, arrays: Sequence[Array]) -> list[Array]:
        """The same for a caller who has seen already that the arrays are of the parameters' types,
        and those of donated ones writeable and contiguous: this is not looked at again."""
        given = contiguous(arrays)
        return self.run(given, addresses(given), self.sized(arrays))

    def starting(self, first: Sequence[Array]) -> Callable[[Sequence[Array]], list[Array]]:
        """A function that runs it for arrays of which the first ones are these, call after call:
        they are looked at once."""
        count = len(first)
        if self.numbers or any(i < count for i in self.program.donated):
            return self
        kept = self.checked(first, self.fixed, stop=count)
        words = addresses(kept)

        def started(arrays: Sequence[Array]) -> list[Array]:
            rest = self.checked(arrays[count:], self.fixed, start=count)
            return self.run([*kept, *rest], [*words, *addresses(rest)], self.fixed)

        return started

    def run(self, given: list[Array], words: list[int], types: Sized) -> list[Array]:
        """The same, of arrays as `checked` gives them, and their addresses."""
        results: list[Array] = []
        places: list[int] = []
        for (shape, dtype), kept in zip(types.outputs, self.kept, strict=True):
            if kept is None:
                results.append(fresh := self.results.array(shape, dtype))
                places += addresses([fresh])
            else:
                results.append(given[kept])
                places.append(words[kept])
        # A call has an arena of its own, so calls do not disturb each other; taking one from the
        # list and putting it back are atomic.
        arena = self.work_space()
        error = NEW(WORDS, ERROR - 1)
        if types.array is not None:
            words = [*words, *addresses([types.array])]
        entered = (
            NEW(WORDS, words),
            NEW(WORDS, places),
            arena[1],
            error,
            self.shower,
            pools().address(self.module.threads) if self.module.parallel else 0,
        )
        if self.module.loops:
            code = interruptible(lambda stop: self.entry(*entered, stop))
        else:
            code = self.entry(*entered, 0)
        self.arenas.append(arena)
        if code == INTERRUPTED:  # unless Python's handler of the signal has raised already
            raise KeyboardInterrupt
        if code:
            op = self.module.fallible[code - 1]
            shape = sized(self.shape(op, error[2]), types.lengths) if op.inputs else None
            raise failure(op, error[0], error[1], shape)
        return results

    def shape(self, op: Op, root: int) -> tuple[int, ...]:
        """The shape of the first input of an operation that failed, for a root of an `agenda`."""
        shape = op.inputs[0].type.shape
        agendas = (inner for inner in walk(self.program.block) if inner.name == "agenda")
        for some in (some for inner in agendas if root for some in captured(inner)):
            if len(some) > 1 and some[0].type.shape[:1] == shape[:1]:
                return (*some[root - 1].type.shape[:1], *shape[1:])
        return shape

    def frames(self) -> int:
        """The most bytes that lists and nodes took at a time in any call so far: what loops of no
        known length and recursions saved for their way back."""
        if not self.module.lists:
            return 0
        return foreign().cast("int64_t(*)()", self.library.addresses[TAKEN])()

    def sized(self, arrays: Sequence[Array]) -> Sized:
        """What the lengths of tables make of the types."""
        if not self.numbers:
            return self.fixed
        if len(arrays) != len(self.inputs):
            raise IRError(f"{self.program.name} takes {len(self.inputs)} inputs, not {len(arrays)}")
        found = tuple([arrays[i].shape[:1] for i in self.places])
        if found not in self.met:
            if len(self.met) >= KEPT:
                self.met.clear()
            lengths = bound(self.program.block.params, [array.shape for array in arrays])
            self.met[found] = Sized(
                lengths,
                [(sized(shape, lengths), dtype) for shape, dtype in self.inputs],
                [(sized(shape, lengths), dtype) for shape, dtype in self.outputs],
                np.asarray([lengths[n] for n in self.numbers], np.int64),
            )
        return self.met[found]

    def checked(
        self, arrays: Sequence[Array], types: Sized, start: int = 0, stop: int | None = None
    ) -> list[Array]:
        """The inputs, or those from one position to before another, contiguous."""
        wanted = types.inputs[start:stop] if start or stop is not None else types.inputs
        if len(arrays) != len(wanted):
            raise IRError(f"{self.program.name} takes {len(wanted)} inputs, not {len(arrays)}")
        found = [(array.shape, array.dtype) for array in arrays]
        if found != wanted:
            k = next(i for i, kind in enumerate(found) if kind != wanted[i])
            param = self.program.block.params[start + k]
            raise IRError(f"{param} was given {arrays[k].dtype}{list(arrays[k].shape)}")
        for i in self.program.donated:
            if start <= i < start + len(arrays) and not arrays[i - start].flags.carray:
                param = self.program.block.params[i]
                raise IRError(f"{param} is donated: its array must be writeable and contiguous")
        return contiguous(arrays)

    def work_space(self) -> tuple[np.ndarray[Any, Any], int]:
        """The memory of one call, and where it begins."""
        try:
            return self.arenas.pop()
        except IndexError:
            pass
        alignment = self.module.alignment
        try:
            made = np.empty(self.module.arena + alignment, np.uint8)
        except MemoryError:
            raise MemoryError(
                f"{self.program.name} needs {self.module.arena} bytes for what it computes with"
            ) from None
        return made, -(-made.ctypes.data // alignment) * alignment

    def show(self, number: int, pointers: Any) -> None:
        """Print what a `print` operation shows."""
        op = self.module.shown[number]
        arrays: list[np.ndarray[Any, Any]] = []
        for pointer, value in zip(foreign().unpack(pointers, len(op.inputs)), op.inputs,
                                  strict=True):  # fmt: skip
            data = bytes(foreign().buffer(pointer, value.type.bytes))
            dtype = numpy_dtype(value.type.dtype)
            arrays.append(np.frombuffer(data, dtype).reshape(value.type.shape))
        print(str(op.attributes["format"]).format(*arrays))


def contiguous(arrays: Sequence[Array]) -> list[Array]:
    """The arrays, and of those that are not C-contiguous copies."""
    return [a if a.flags.c_contiguous else a.copy("C") for a in arrays]


def _discard(library: Library, discard: Any) -> None:
    """Give the memory of a library's lists back, before it is unloaded itself."""
    discard()


def compile_program(program: Program, threads: int | None = None) -> Executable:
    """Compile a verified program to native code for this CPU.

    Args:
        program: what to compile.
        threads: for how many threads its work is divided; if None the cores that this process may
            use, or one where there is too little to divide. For one number the results are the
            same to the bit, run after run.

    Raises:
        NotImplementedError: the program has an operation that this backend does not know; the
            message names it and the user's line.

    Example:
        >>> from staging.text import parse_program
        >>> double = compile_program(parse_program(
        ...     "program @double(%x: float32[2]) { %y = add(%x, %x): float32[2] return (%y) }"))
        >>> double([np.asarray([1, 2], np.float32)])
        [array([2., 4.], dtype=float32)]
    """
    return Executable(program, written(program, threads))


def written(program: Program, threads: int | None = None) -> Module:
    """What a program becomes."""
    from backends.llvm.program import Entry  # what runs programs from the disk does not need it

    return Entry(threads or sharing(program.block, len(cores()))).finished(program)


def compiled(module: Module) -> list[bytes]:
    """The object code of a module."""
    from backends.llvm.objects import objects  # what runs programs from the disk needs neither
    from backends.llvm.splitting import texts

    return objects(texts(module.source, module.brief, len(cores())))


def source_of(program: Program, threads: int | None = None) -> str:
    """The LLVM IR that a program becomes, before LLVM's own passes."""
    return written(program, threads).source


def assembly_of(source: str) -> str:
    """The machine code, as text, that LLVM IR becomes on this CPU."""
    return machine().emit_assembly(optimised(source))


def host(threads: int | None = None) -> str:
    """All that code for this CPU depends on besides the program and the source of this package."""
    import llvmlite
    import scipy_openblas32

    target, wheel = machine(), scipy_openblas32.__version__
    return f"{target.triple} {features()} {llvmlite.__version__} {wheel} {threads or len(cores())}"
