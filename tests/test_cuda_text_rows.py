"""What kernels of reductions and of loop nests around them look like: whole texts, to be read, in
the folder ``kernels``. ``python tests/test_cuda_text_rows.py`` writes them anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lantern as ln
from backends.cuda.lowering import lower
from backends.cuda.module import kernel_text
from backends.cuda.steps import Launch
from lantern.convert import asarray
from lantern.staged.tracing import trace
from staging.interpret import numpy_dtype
from staging.pipeline import optimise

FOLDER = Path(__file__).parent / "kernels"


def softmax(x: Any) -> Any:
    return ln.softmax(x, axis=-1)


def softmax_backward(x: Any, dy: Any) -> Any:
    _, back = ln.vjp(softmax, x)
    return back(dy)


def rms_norm(x: Any, weight: Any) -> Any:
    wide = ln.astype(x, "float32")
    scale = 1 / ln.sqrt(ln.mean(wide * wide, axis=-1, keepdims=True) + 1e-5)
    return ln.astype(wide * scale, x.dtype) * weight


def rms_norm_backward(x: Any, weight: Any, dy: Any) -> Any:
    _, back = ln.vjp(rms_norm, x, weight)
    return back(dy)


def column_sums(dy: Any) -> Any:
    return ln.sum(dy, axis=0)


def mean_square(x: Any) -> Any:
    return ln.mean(x * x)


# What is shown, with the shapes and dtypes of its arguments by name.
SHOWN: dict[Callable[..., Any], dict[str, tuple[tuple[int, ...], str]]] = {
    softmax: {"x": ((4096, 1000), "float32")},
    softmax_backward: {"x": ((4096, 512), "float32"), "dy": ((4096, 512), "float32")},
    rms_norm: {"x": ((8192, 4096), "bfloat16"), "weight": ((4096,), "bfloat16")},
    rms_norm_backward: {
        "x": ((8192, 4096), "bfloat16"),
        "weight": ((4096,), "bfloat16"),
        "dy": ((8192, 4096), "bfloat16"),
    },
    column_sums: {"dy": ((600, 100), "float16")},
    mean_square: {"x": ((4_000_000,), "float32")},
}


def text(f: Callable[..., Any]) -> str:
    """The kernels of a function."""
    given = SHOWN[f]
    leaves = [asarray(np.zeros(shape, numpy_dtype(dtype))) for shape, dtype in given.values()]
    kinds = [(x.shape, x.dtype) for x in leaves]
    _, structure = ln.tree.flatten((tuple(leaves), {}))
    program = optimise(trace(f, "rows", structure, leaves, kinds, list(given), {}).program)
    launches = [s for op in program.block.ops for s in lower(op) if isinstance(s, Launch)]
    found = "\n\n".join(
        kernel_text(s.kernel.stem, s.kernel, (*s.kernel.header, f"grid: {s.grid}"))
        for s in launches
    )
    return re.sub(rf"\S*{Path(__file__).name}:\d+", "model.py", found) + "\n"


@pytest.mark.parametrize("f", SHOWN, ids=lambda f: f.__name__)
def test_kernels_read_as_they_did(f: Callable[..., Any]) -> None:
    assert text(f) == (FOLDER / f"{f.__name__}.cu").read_text()


if __name__ == "__main__":
    for shown in SHOWN:
        (FOLDER / f"{shown.__name__}.cu").write_text(text(shown))
