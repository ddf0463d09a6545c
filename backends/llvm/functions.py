"""The definitions of the functions that a module calls, by name and dtype."""

from __future__ import annotations

import re
from collections.abc import Callable

from backends.llvm.double import DOUBLE
from backends.llvm.mathematics import SINGLE, Float, turns

OWN: dict[str, tuple[str, str, dict[str, Callable[..., str]]]] = {
    "f32": ("float32", "float", SINGLE),
    "f64": ("float64", "double", DOUBLE),
}


def needed(text: str) -> str:
    """The definitions of the functions that some LLVM IR calls."""
    found = sorted(set(re.findall(r"@lantern\.(\w+)\.(f32|f64)", text)))
    made = [own(name, kind) if name in OWN[kind][2] else libm(name) for name, kind in found]
    if any(name in ("sin", "cos") and kind == "f32" for name, kind in found):
        made.append(turns())
    made += [f"declare double @{name}(double)" for name, kind in found
             if name in ("sin", "cos") and kind == "f64"]  # fmt: skip
    return "\n\n".join(made)


def parameters(name: str) -> list[str]:
    """The names of a function's parameters."""
    return ["%x", "%y"] if name in ("pow", "atan2") else ["%x"]


def own(name: str, kind: str) -> str:
    """A function that is written here."""
    dtype, type, table = OWN[kind]
    f = Float(dtype)
    result = table[name](f, *parameters(name))
    given = ", ".join(f"{type} {p}" for p in parameters(name))
    head = f"define internal {type} @lantern.{name}.{kind}({given}) alwaysinline"
    return f"{head} {{\n{f.body()}\n  ret {type} {result}\n}}"


def libm(name: str) -> str:
    """A function of float64, from the C library."""
    given = ", ".join(f"double {p}" for p in parameters(name))
    types = ", ".join("double" for _ in parameters(name))
    return f"""declare double @{name}({types})
define internal double @lantern.{name}.f64({given}) alwaysinline {{
  %r = call double @{name}({given})
  ret double %r
}}"""
