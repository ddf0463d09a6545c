"""The pipeline: a tuple of named passes, which a caller may replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from staging.fusion import fuse
from staging.ir import Program
from staging.passes.common import share_common
from staging.passes.contractions import contract
from staging.passes.dead import remove_dead
from staging.passes.hoist import hoist
from staging.passes.layout import fold_transposes
from staging.passes.products import join_products
from staging.passes.recompute import recompute
from staging.passes.schedule import schedule
from staging.passes.simplify import simplify
from staging.passes.stacks import restack
from staging.passes.tiled import open_tiled, turn_tiled


class Pass(NamedTuple):
    """A pass and the name under which the program after it can be shown."""

    name: str
    run: Callable[[Program], Program]


OPENED = Pass("opened", open_tiled)
UNOPENED: tuple[Pass, ...] = (  # for a backend that has kernels for what is tiled
    Pass("dead", remove_dead),
    Pass("common", share_common),
    Pass("simplify", simplify),
    Pass("simplify again", simplify),
    Pass("hoisted", hoist),
    Pass("layout", fold_transposes),
    Pass("turned", turn_tiled),
    Pass("stacked", restack),
    Pass("common again", share_common),
    Pass("dead again", remove_dead),
    Pass("products", join_products),
    Pass("fused", fuse),
    Pass("recomputed", recompute),
    Pass("scheduled", schedule),
)
CONTRACTED = Pass("contracted", contract)
AT = next(i for i, one in enumerate(UNOPENED) if one.name == "products")
DEFAULT: tuple[Pass, ...] = (OPENED, *UNOPENED[:AT], CONTRACTED, *UNOPENED[AT:])


def optimise(
    program: Program,
    passes: tuple[Pass, ...] = DEFAULT,
    after: Callable[[str, Program], None] | None = None,
) -> Program:
    """Run passes one after another.

    Args:
        program: what to improve.
        passes: which, in order.
        after: called with the name of each pass and the program it gave; tests verify there.

    Returns:
        A program with the same results.
    """
    for one in passes:
        program = one.run(program)
        if after is not None:
            after(one.name, program)
    return program
