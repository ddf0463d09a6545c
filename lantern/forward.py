"""`Forward`, the prompt of `lantern.jvp`: tangents by a local double transpose.

No primitive has a second, forward rule. Its backward half maps the adjoint of the result to the
adjoints of the arguments, linearly: u ↦ (J₁ᵀu, …, Jₙᵀu). Sending a fresh variable u of an inner
`Reverse` prompt and transposing that at once gives ẏ = Σᵢ Jᵢẋᵢ. The inner prompt lives for one
primitive only, so forward mode keeps no trace and needs memory for one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import Any

import numpy as np

from lantern.control import Primitive, Prompt, Reverse, Scatter, conform, resume, suspend, unbox
from lantern.errors import DifferentiationError
from lantern.places import recording
from lantern.ragged import Empty, is_unsized
from lantern.tensor import Tensor


class Forward(Prompt):
    """A prompt whose tensors carry their tangent as ``mark``; None is a symbolic zero."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "jvp"

    def handle(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        if (region := recording.get()) is not None and region.level > self.level:
            return region.handle(prim, args, params)
        if prim.rule is None:
            return self.passthrough(prim, args, params)
        if not prim.linear:
            raise DifferentiationError(
                f"forward mode through {prim.name}: its rule was not declared linear in its "
                "adjoint. If it is, declare it with ln.custom_vjp(linear=True)."
            )
        if prim.selective:
            wanted = [type(a) is Tensor and a.prompt is self and a.mark is not None for a in args]
            params = {**params, "wanted": tuple(i for i, w in enumerate(wanted) if w)}
        rest, out = suspend(prim, self.lower(args), params)
        many = type(out) is tuple
        outs = out if many else (out,)
        if prim.boxed:
            self.refuse_captured(prim, outs)
        transpose = Reverse()
        transpose.places = None  # it is resumed below the user's line itself
        # What the cotangents hold is of no effect, but 0 would warn where it meets an infinity.
        cotangents = tuple(
            transpose.variable(
                Empty(v.shape, v.dtype)
                if is_unsized(v.shape, v.dtype)
                else np.broadcast_to(v.dtype.type(1), v.shape)
            )
            for v in outs
        )
        adjoints = resume(prim, rest, len(args), cotangents if many else cotangents[0])
        for a, adjoint in zip(args, adjoints, strict=True):
            if adjoint is None or type(a) is not Tensor or a.prompt is not self or a.mark is None:
                continue
            if type(adjoint) is FunctionType:
                adjoint = adjoint()
            if prim.boxed:
                self.refuse_captured(prim, (adjoint,))
            if type(adjoint) is Scatter:
                adjoint = adjoint.add_to(None, a.shape, a.dtype)
            if type(adjoint) is not Tensor:
                continue
            adjoint = conform(adjoint, a.shape, a.dtype, prim)
            if adjoint.prompt is transpose:
                transpose.accumulate(adjoint.mark, a.mark, prim)
        transpose.unwind()
        results = tuple(
            Tensor(v, self, transpose.adjoint_of(u)) for v, u in zip(outs, cotangents, strict=True)
        )
        return results if many else results[0]


def tangent_of(x: Any, prompt: Forward) -> Any:
    """The tangent that arrived at ``x``, one level down; None for a symbolic zero."""
    return unbox(x.mark) if type(x) is Tensor and x.prompt is prompt else None
