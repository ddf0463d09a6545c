"""The functions of one or two floats that programs call."""

from __future__ import annotations

import re

LIBM = ("exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "erf", "pow", "atan2")


def needed(text: str) -> str:
    """The definitions of the functions that some LLVM IR calls."""
    found = sorted(set(re.findall(r"@lantern\.(\w+)\.(f32|f64)", text)))
    return "\n".join(wrapper(name, kind) for name, kind in found)


def wrapper(name: str, kind: str) -> str:
    """A function of the C library."""
    type, suffix = ("float", "f") if kind == "f32" else ("double", "")
    names = ["%x", "%y"][: 2 if name in ("pow", "atan2") else 1]
    params = ", ".join(f"{type} {n}" for n in names)
    types = ", ".join(type for _ in names)
    return f"""declare {type} @{name}{suffix}({types})
define internal {type} @lantern.{name}.{kind}({params}) alwaysinline {{
  %r = call {type} @{name}{suffix}({params})
  ret {type} %r
}}"""
