"""What a compiled function tells about itself, and the way out of Python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern import tree
from lantern.errors import ArgumentError
from staging.machine import Machine

if TYPE_CHECKING:
    from lantern.staged.given import Given
    from lantern.staged.options import Options
    from lantern.staged.profile import Profile
    from lantern.staged.specialization import Specialization
    from staging.cost import Cost

__all__ = ["Machine"]

PyTree = Any


class Insight:
    """The methods of `Compiled` that look at a program from outside of it."""

    if TYPE_CHECKING:
        __name__: str
        options: Options

        def outside(self, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]) -> Given: ...
        def specialize(self, given: Given, open: bool = True) -> Specialization: ...

    def cost(
        self,
        *args: PyTree,
        machine: Machine | None = None,
        device: str | None = None,
        **kwargs: PyTree,
    ) -> Cost:
        """What a call will cost, before it runs: from the types of the program alone.

        Args:
            *args: the arguments, or `ShapeDtype` in place of arrays.
            machine: whose roofline it is; by default that of this machine, which is measured once,
                in about a second, and kept in the folder of the cache.
            device: a GPU, in place of a machine: ``"a100"``, ``"h100"`` or ``"b200"``. The kernels
                are those of the backend ``"cuda"``; their times follow from the peaks of the data
                sheet and from how many threads their registers let it hold. No GPU is needed; NVRTC
                (``lantern-ad[cuda13]``) is, to know the registers.
            **kwargs: more arguments.

        Returns:
            A table of the kernels, the slowest first, with the user's lines; it prints. Its fields
            ``flops``, ``bytes``, ``intensity``, ``seconds`` and ``peak_memory`` are those of the
            whole; ``rows`` has them for each kernel, and ``frames`` what each loop or recursion
            keeps of a step for the way back: its line, the types, the bytes, and the bytes of all
            steps where their number is known. An operation on integers counts as well, and a
            function such as ``exp`` as many as its vector code has.

        Example:
            >>> import lantern as ln
            >>> step = ln.compile(lambda x, w: ln.tanh(x @ w))
            >>> x, w = ln.ShapeDtype((64, 32), ln.float32), ln.ShapeDtype((32, 16), ln.float32)
            >>> found = step.cost(x, w, machine=ln.Machine(1e11, ((float("inf"), 1e10),)))
            >>> found.rows[0].name.split()[:2], found.peak_memory
            (['matmul', '64x16x32'], 14336)
            >>> step.cost(x, w, device="h100").rows[0].bound
            'start'

        Raises:
            ArgumentError: there is no such device, or a machine is given, too.
        """
        from lantern.staged.executables import optimised, predicted, roofline
        from staging.cost import estimate

        program = self.specialize(self.outside(args, kwargs), open=False).traced.program
        if device is not None:
            if machine is not None:
                raise ArgumentError("cost takes a machine or a device, not both")
            return predicted(program, self.options, device)
        return estimate(optimised(program, self.options), machine or roofline(self.options))

    def profile(
        self,
        *args: PyTree,
        png: str | os.PathLike[str] | None = None,
        machine: Machine | None = None,
        **kwargs: PyTree,
    ) -> Profile:
        """Run a call several times, for about a second, and take the time of each kernel.

        The program is compiled once more for that, with a look at the clock around each kernel;
        ordinary calls have none of it. Donated arguments are copied, so they live on.

        Args:
            *args: the arguments.
            png: where to draw the result; this takes matplotlib.
            machine: whose roofline the time is compared with; see `cost`.
            **kwargs: more arguments.

        Returns:
            A table of the kernels, the slowest first: time, share, what the roofline predicts, and
            the user's lines. It prints; ``seconds`` is the time of a call, ``outside`` the part of
            it that is spent outside of kernels, and ``frames`` the most bytes at a time that loops
            and recursions saved whose length is known only when they have ended.

        Raises:
            ArgumentError: ``png`` is given, and matplotlib is not installed.
            StagingError: a package of the backend ``"llvm"`` is not installed.
        """
        from lantern.staged.executables import optimised, roofline, timings
        from lantern.staged.profile import compare, drawing

        if png is not None:
            drawing()
        given = self.outside(args, kwargs)
        one = self.specialize(given, open=False)
        if len(given.values) < len(one.arrays):
            raise ArgumentError(f"{self.__name__}.profile takes arrays, not ShapeDtype")
        program = optimised(one.traced.program, self.options)
        arrays = [np.asarray(x, order="C") for x in (*given.values, *one.traced.captured)]
        found, seconds, frames = timings(program, arrays, self.options)
        profile = compare(program, machine or roofline(self.options), found, seconds, frames)
        if png is not None:
            profile.plot(png)
        return profile

    def export(
        self,
        path: str | os.PathLike[str],
        *args: PyTree,
        cpu: str | None = None,
        **kwargs: PyTree,
    ) -> tuple[Path, Path]:
        """Write the program for some arguments as a library that C calls, and that needs no Python.

        A call of the library runs in the calling thread, on own kernels: there is no pool of
        threads and no BLAS. Arrays that the function closes over are constants of the library.
        Nothing is donated; decompositions and `debug.print` are refused.

        Args:
            path: of the library; ``step.so`` takes a linker on this machine, ``step.o`` does not.
                The name without ending, and without ``lib`` in front, is that of the function in C.
            *args: the arguments, or `ShapeDtype` in place of arrays.
            cpu: which CPU it shall run on: this one, or ``"x86-64-v2"``, ``"x86-64-v3"`` (AVX2),
                ``"x86-64-v4"`` (AVX-512), or another that the error lists.
            **kwargs: more arguments.

        Returns:
            Where the library is, and the header beside it, which says of each argument its shape,
            its dtype and what it is called in Python. The function returns 0, or a number that
            ``NAME_message`` explains.

        Raises:
            StagingError: the program needs more than the C library, or there is no linker.
        """
        from lantern.staged.executables import c_library, optimised

        one = self.specialize(self.outside(args, kwargs), open=False)
        count = one.traced.structure.num_leaves
        paths = tree.paths(tree.unflatten(one.traced.structure, range(count)))
        return c_library(
            optimised(one.traced.program, self.options), Path(path), one.arrays,
            [f"result{p}" for p in paths],
            [np.asarray(x, order="C") for x in one.traced.captured], cpu,
        )  # fmt: skip
