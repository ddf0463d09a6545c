"""`compile`: run a function once on Symbols, and from then on run the program that this wrote."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern import tree
from lantern.checks import checking, checks
from lantern.convert import asarray
from lantern.errors import StagingError
from lantern.staged.fingerprint import Fingerprint
from lantern.symbol import Symbol
from lantern.tensor import Tensor

if TYPE_CHECKING:
    from staging.ir import Program

__all__ = ["compile"]

PyTree = Any
Array = np.ndarray[Any, Any]
Executable = Callable[[list[Array]], list[Array]]


class Specialization:
    """A program for arguments of certain shapes and dtypes, ready to run."""

    def __init__(self, program: Program, captured: list[Array], backend: str) -> None:
        self.program, self.captured = program, captured
        self.execute: Executable = BACKENDS[backend](program)

    def __call__(self, arrays: list[Array]) -> list[Array]:
        try:
            return self.execute([*arrays, *self.captured])
        except (ArithmeticError, IndexError, np.linalg.LinAlgError) as problem:
            from lantern.staged.failures import eager

            raise eager(problem) from None


class Compiled:
    """A function that runs as a program; see `compile`."""

    def __init__(self, f: Callable[..., PyTree], backend: str, check_nans: bool = False) -> None:
        self.f, self.backend, self.check_nans = f, backend, check_nans
        self.specializations: dict[Hashable, tuple[Specialization, Any, Any]] = {}
        self.__name__ = getattr(f, "__name__", type(f).__name__)
        functools.update_wrapper(self, f)

    def __call__(self, *args: PyTree, **kwargs: PyTree) -> PyTree:
        leaves, structure = tree.flatten((args, kwargs))
        leaves = [asarray(x) if is_array(x) else x for x in leaves]
        tensors = [x for x in leaves if type(x) is Tensor]
        if any(isinstance(x.value, Symbol) or x.prompt is not None for x in tensors):
            if all(x.prompt is None for x in tensors):
                return self.f(*args, **kwargs)  # inside another compiled function: part of it
            raise StagingError(
                f"{self.__name__} is compiled and was called inside grad, jvp or vmap; compile the "
                "transformed function instead: ln.compile(ln.grad(f))"
            )
        specialization, out_structure, _ = self.specialize(leaves, structure)
        results = specialization([np.asarray(x.value, order="C") for x in tensors])
        return tree.unflatten(out_structure, [Tensor(y[()] if not y.ndim else y) for y in results])

    def specialize(self, leaves: list[Any], structure: Any) -> tuple[Specialization, Any, Any]:
        """The specialization for arguments like these, staged if there is none yet."""
        fingerprint = Fingerprint(self.f)
        key = (
            structure,
            tuple((x.shape, x.dtype.name) if type(x) is Tensor else x for x in leaves),
            fingerprint.key,
            self.check_nans or checks.get() is not None,
        )
        if key not in self.specializations:
            from lantern.staged.tracing import stage  # when something is compiled, not before

            with checking() if self.check_nans else nullcontext():
                program, captured, out_structure = stage(self.f, leaves, structure)
            made = Specialization(program, captured, self.backend)
            self.specializations[key] = made, out_structure, fingerprint
        return self.specializations[key]

    def ir(self, *args: PyTree, **kwargs: PyTree) -> str:
        """The program for these arguments, as text."""
        leaves, structure = tree.flatten((args, kwargs))
        leaves = [asarray(x) if is_array(x) else x for x in leaves]
        return str(self.specialize(leaves, structure)[0].program)


def is_array(x: Any) -> bool:
    """Whether a leaf of the arguments is an input of the program; anything else is static."""
    return isinstance(x, (Tensor, np.ndarray, np.generic, int, float)) and not isinstance(x, bool)


def interpreter(program: Program) -> Executable:
    """The backend that runs the reference interpreter."""
    from staging.interpret import interpret

    return lambda arrays: interpret(program, arrays)


def llvm(program: Program) -> Executable:
    """The backend that compiles the optimised program to native code."""
    try:
        from backends.llvm import compile_program
    except ModuleNotFoundError as missing:
        raise StagingError(
            f"backend 'llvm' needs the package {missing.name}: pip install 'lantern-ad[llvm]'"
        ) from None
    from staging.pipeline import optimise

    return compile_program(optimise(program))


BACKENDS: dict[str, Callable[[Program], Executable]] = {"interpreter": interpreter, "llvm": llvm}


def compile(
    f: Callable[..., PyTree] | None = None,
    *,
    backend: str = "interpreter",
    check_nans: bool = False,
) -> Any:
    """Compile a function: run it once on symbols, then run what it wrote down.

    Args:
        f: a function of pytrees. Tensors, NumPy arrays and numbers among its arguments are inputs
            of the program, everything else is static: another value compiles again. So does
            another value of a variable that ``f`` closes over.
        backend: ``"interpreter"``, the reference; ``"llvm"``, native code for this CPU.
        check_nans: whether the program checks, as inside `lantern.debug.check_nans`.

    Returns:
        A function with the arguments and results of ``f``. Its ``ir(*args)`` shows the program.

    Raises:
        StagingError: ``f`` needs the elements of an array to go on, or uses what cannot be
            compiled.

    Example:
        >>> import lantern as ln
        >>> slope = ln.compile(ln.grad(lambda x: ln.sum(x * x)))
        >>> print(slope(ln.asarray([1.0, 2.0])))
        [2. 4.]
    """
    if f is None:
        return functools.partial(compile, backend=backend, check_nans=check_nans)
    if backend not in BACKENDS:
        raise StagingError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    return Compiled(f, backend, check_nans)
