"""The kernel by which the host moves rows of tables, of any type, from places to places."""

from __future__ import annotations

from backends.cuda.steps import Kernel

UNITS = {8: "unsigned long long", 4: "unsigned int", 2: "unsigned short", 1: "unsigned char"}
THREADS = 256


def mover(unit: int) -> Kernel:
    """The kernel that copies rows in units of so many bytes."""
    word = UNITS[unit]
    return Kernel(
        f"move_rows_by_{unit}",
        (f"rows of {word}: target[rows[i]] = source[others[i]]",),
        (
            f"{word}* target",
            f"const {word}* source",
            "const long long* rows",
            "const long long* others",
            "long long count",
            "long long words",
        ),
        f"""
  const long long all = count * words, step = gridDim.x * {THREADS}ll;
  for (long long i = blockIdx.x * {THREADS}ll + threadIdx.x; i < all; i += step) {{
    const long long row = i / words, word = i % words;
    target[rows[row] * words + word] = source[others[row] * words + word];
  }}""",
        THREADS,
    )
