"""Weights of 8 or 4 bits, and keys and values of 8: a smaller model, which is read faster.

Section 6.2 of *The Llama 3 Herd of Models* quantises the matrices of the feed-forward for
inference. Writing a token reads every weight once, so what counts is how many bytes they are. Here
a matrix is cut into groups of neighbours in a row; each has a scale, and perhaps an offset:

    weight = scale * code + offset

These are the blocks of GGUF files: `Q8_0` has codes of 8 bits, `Q4_0` and `Q4_1` of 4, 32 weights
in a group. The numbers that weights are multiplied by become integers of 16 bits, all of a position
with one scale, so that a group is multiplied in integers and scaled once. All of it is plain
lantern, of which a compiled program makes one loop over the codes.

Letters in shape comments: N rows of a matrix (outputs), W numbers in a row (inputs), G groups in a
row, S numbers in a group, P codes in a group (S, or S/2 where two share a byte), M positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

import lantern as ln
from examples.llama3.files import Problem

FEW = 16  # positions up to which integers are multiplied; for more, the weights are made floats
GROUP = 32  # numbers that share a scale
LEVELS = {8: 256, 4: 16}  # codes of so many bits


@ln.tree.dataclass
@dataclass(frozen=True)
class Quantised:
    """A matrix [N, W], or numbers [..., W], in few bits: a node of a pytree.

    Attributes:
        codes: int8 [..., G, S]; or uint8 [..., G, S/2]: the low halves of the bytes are the first
            S/2 numbers of a group, the high ones the others.
        scales: floats [..., G].
        offsets: floats [..., G], or None: codes of 4 bits then count from 8.
    """

    codes: ln.Tensor
    scales: ln.Tensor
    offsets: ln.Tensor | None = None

    @property
    def bits(self) -> int:
        """Of a code."""
        return 8 if self.codes.dtype == np.int8 else 4

    @property
    def group(self) -> int:
        """Numbers that share a scale (S)."""
        return self.codes.shape[-1] * 8 // self.bits

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is meant."""
        *outer, groups, _ = self.codes.shape
        return (*outer, groups * self.group)


Matrix = ln.Tensor | Quantised


class Multiplied(Protocol):
    """A matrix in a form of its own, which says how to multiply by it."""

    def linear(self, x: ln.Tensor) -> ln.Tensor: ...


def quantise(x: Any, bits: int = 8, group: int = GROUP, offsets: bool = False) -> Quantised:
    """Round numbers [..., W] to codes with a scale for each group.

    Args:
        x: floats.
        bits: 8 or 4.
        group: the most numbers that share a scale: the largest divisor of W up to it do.
        offsets: whether each group has one too: codes then cover what lies between the smallest and
            the largest number.
    """
    if bits not in LEVELS:
        raise Problem(f"weights of {bits} bits are unknown; there are {sorted(LEVELS)}")
    x = ln.astype(ln.asarray(x), ln.float32)
    *outer, width = x.shape
    size = divisor(width, group, 8 // bits)
    x = ln.reshape(x, (*outer, width // size, size))  # [..., G, S]
    low, high = ln.min(x, axis=-1, keepdims=True), ln.max(x, axis=-1, keepdims=True)
    middle = LEVELS[bits] // 2
    if offsets:
        scale = narrow((high - low) / (LEVELS[bits] - 1))
        base = narrow(low + (middle * scale if bits == 8 else 0))
    else:  # the number that is largest in size has the least code: there is no greatest as large
        scale = narrow(ln.where(-low > high, low, high) / -middle)
        base = ln.zeros_like(scale)
    codes = ln.round((x - base) / ln.where(scale == 0, 1.0, scale))
    scales = ln.astype(scale[..., 0], ln.float16)
    bases = ln.astype(base[..., 0], ln.float16) if offsets else None
    if bits == 8:
        return Quantised(ln.astype(ln.clip(codes, -middle, middle - 1), ln.int8), scales, bases)
    codes = ln.clip(codes + (0 if offsets else middle), 0, LEVELS[bits] - 1)
    low, high = ln.split(ln.astype(codes, ln.uint8), 2, axis=-1)
    return Quantised(low | (high << 4), scales, bases)


def narrow(x: ln.Tensor) -> ln.Tensor:
    """Floats as float16 holds them."""
    return ln.astype(ln.astype(x, ln.float16), ln.float32)


def divisor(width: int, most: int, step: int) -> int:
    """The largest multiple of ``step`` up to ``most`` that divides ``width``."""
    found = [n for n in range(step, most + 1, step) if width % n == 0]
    if not found:
        raise Problem(f"rows of {width} numbers do not divide into groups of up to {most}")
    return found[-1]


def dense(w: Matrix, dtype: Any = ln.float32) -> ln.Tensor:
    """The floats that are meant."""
    if not isinstance(w, Quantised):
        return w
    codes = ln.concat([ln.astype(c, dtype) for c in halves(w)], axis=-1)  # [..., G, S]
    floats = codes * ln.astype(w.scales, dtype)[..., None]
    if w.offsets is not None:
        floats = floats + ln.astype(w.offsets, dtype)[..., None]
    return ln.reshape(floats, w.shape)


def counted(w: Quantised) -> list[ln.Tensor]:
    """The codes that lie in memory, counted from 0 if they are of 4 bits: all, or the low and the
    high halves of bytes, which are no more than a mask and a shift once they are wider."""
    if w.bits == 8:
        return [w.codes]
    wide = ln.astype(w.codes, ln.uint16)
    return [wide & 15, wide >> 4]


def halves(w: Quantised) -> list[ln.Tensor]:
    """The codes as they are meant: those of 4 bits without offsets count from 8."""
    if w.bits == 8 or w.offsets is not None:
        return counted(w)
    return [ln.astype(codes, ln.int8) - ln.asarray(LEVELS[4] // 2, dtype=ln.int8)
            for codes in counted(w)]  # fmt: skip


def linear(x: ln.Tensor, w: Matrix | Multiplied) -> ln.Tensor:
    """x Wᵀ, for a matrix in any form; [..., W] -> [..., N].

    The derivative by ``x`` of one in few bits is that of the product with the floats that are
    meant.
    """
    if isinstance(w, ln.Tensor):
        return ln.nn.linear(x, w)
    if not isinstance(w, Quantised):
        return w.linear(x)
    *outer, width = x.shape
    rows = ln.reshape(x, (-1, width))  # [M, W]
    if rows.shape[0] > FEW:
        return ln.nn.linear(x, dense(w, x.dtype))
    leaves, structure = ln.tree.flatten(w)
    y = few(rows, *leaves, structure=structure)
    return ln.reshape(ln.astype(y, x.dtype, copy=False), (*outer, w.shape[0]))


@ln.custom_vjp
def few(x: ln.Tensor, *leaves: ln.Tensor, structure: Any) -> Any:
    """The product for few rows: in integers. [M, W] -> [M, N]."""
    w = ln.tree.unflatten(structure, leaves)
    dy = yield product(x, w)
    return (dy @ dense(w, dy.dtype), *(None for _ in leaves))


def product(x: ln.Tensor, w: Quantised) -> ln.Tensor:
    """Each group's products in integers, summed, scaled, summed; [..., M, W] and numbers
    [..., N, W] -> [..., M, N] in float32."""
    groups, size = w.codes.shape[-2], w.group
    # No sum of a group of products reaches 2^31.
    levels = min(2**15 - 1, (2**31 - 1) // (128 * size))
    x = ln.astype(x, ln.float32)
    top = ln.max(ln.abs(x), axis=-1, keepdims=True)  # [..., M, 1]
    top = ln.where(top == 0, 1.0, top)
    units = ln.astype(ln.round(x * (levels / top)), ln.int16)
    units = ln.reshape(units, (*x.shape[:-1], 1, groups, size))  # [..., M, 1, G, S]
    parts, places = counted(w), w.codes.shape[-1]
    terms = [
        ln.astype(ln.expand_dims(codes, axis=-4), ln.int32)
        * ln.astype(units[..., i * places : (i + 1) * places], ln.int32)
        for i, codes in enumerate(parts)
    ]  # [..., M, N, G, P]
    sums = ln.sum(sum(terms[1:], terms[0]), axis=-1, dtype=ln.int32)  # [..., M, N, G]
    scales = ln.expand_dims(ln.astype(w.scales, ln.float32), axis=-3)  # [..., 1, N, G]
    y = ln.sum(ln.astype(sums, ln.float32) * scales, axis=-1)  # [..., M, N]
    if w.bits == 4 or w.offsets is not None:
        totals = ln.astype(ln.sum(units, axis=-1, dtype=ln.int32), ln.float32)  # [..., M, 1, G]
        offsets = w.scales if w.offsets is None else w.offsets
        offsets = ln.expand_dims(ln.astype(offsets, ln.float32), axis=-3)
        by = 1.0 if w.offsets is not None else -LEVELS[4] / 2
        y = y + ln.sum(totals * by * offsets, axis=-1)
    return y * (top / levels)


def embedding(table: Matrix, tokens: Any, dtype: Any = ln.float32) -> ln.Tensor:
    """The rows of a table that tokens name, in a dtype; [...] -> [..., W]."""
    if not isinstance(table, Quantised):
        return ln.astype(ln.nn.embedding(table, tokens), dtype, copy=False)
    return dense(ln.tree.map(lambda leaf: ln.take(leaf, ln.asarray(tokens), axis=0), table), dtype)


# From a checkpoint --------------------------------------------------------------------------------

MATRICES = ("query", "key", "value", "output", "gate", "up", "down")


def quantised(params: Any, bits: int, group: int = GROUP, offsets: bool = False) -> Any:
    """The parameters with all matrices in few bits; the table of tokens always in 8, as it is also
    what scores them, if `output` is not there."""

    def few_bits(x: Matrix, bits: int) -> Matrix:
        return x if isinstance(x, Quantised) else quantise(x, bits, group, offsets and bits == 4)

    layers = [
        {k: few_bits(v, bits) if k in MATRICES else v for k, v in layer.items()}
        for layer in params["layers"]
    ]
    found = {**params, "layers": layers, "embedding": few_bits(params["embedding"], 8)}
    if "output" in params:
        found["output"] = few_bits(params["output"], bits)
    return found


BLOCKS: dict[str, tuple[int, bool]] = {"Q8_0": (8, False), "Q4_0": (4, False), "Q4_1": (4, True)}


def from_gguf(raw: np.ndarray[Any, Any], kind: str) -> Quantised:
    """The blocks of a GGUF file as they are: nothing is rounded.

    Args:
        raw: uint8 [N, bytes in a row].
        kind: of the blocks, a key of `BLOCKS`.
    """
    bits, offsets = BLOCKS[kind]
    head = 4 if offsets else 2
    step = head + GROUP * bits // 8
    if raw.ndim != 2 or raw.shape[1] % step:
        raise Problem(f"rows of {raw.shape[-1]} bytes are no blocks of {kind}, which have {step}")
    blocks = raw.reshape(raw.shape[0], -1, step)  # [N, G, bytes]
    floats = np.ascontiguousarray(blocks[..., :head]).view(np.float16)  # [N, G, 1 or 2]
    codes = np.ascontiguousarray(blocks[..., head:])
    return Quantised(
        ln.asarray(codes.view(np.int8) if bits == 8 else codes),
        ln.asarray(np.ascontiguousarray(floats[..., 0])),
        ln.asarray(np.ascontiguousarray(floats[..., 1])) if offsets else None,
    )
