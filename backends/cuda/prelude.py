"""Functions of the device that kernels call, by their names.

A kernel's text names what it calls; `called` finds that out, and `declarations` is the text of it
and of all that it calls in turn, to stand above the kernels. What NVRTC knows by itself, such as
``expf``, is not here; float16 and bfloat16 come from the toolkit's headers.

Kernels are compiled with `OPTIONS`: floats are rounded operation by operation, as on every backend.
Where a product may be fused with a sum, the kernel says so: ``fmaf``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from backends.cuda.steps import PARTS

OPTIONS = ("--std=c++17", "--fmad=false")

COMBINED = {
    "sum": "x + y",
    "prod": "x * y",
    "max": "larger(x, y)",
    "min": "smaller(x, y)",
}  # the partial results of reductions

HELPERS: dict[str, str] = {
    "__half": "#include <cuda_fp16.h>",
    "__nv_bfloat16": "#include <cuda_bf16.h>",
    "Lanes": """
// Neighbouring elements that are read or written at once.
template <typename T, int count>
struct alignas(sizeof(T) * count) Lanes {
  T at[count];
};""",
    "larger": """
// The larger; nan if either is.
template <typename T>
__device__ T larger(T x, T y) {
  return x > y || x != x ? x : y;
}""",
    "smaller": """
// The smaller; nan if either is.
template <typename T>
__device__ T smaller(T x, T y) {
  return x < y || x != x ? x : y;
}""",
    "ascending": """
// A whole number without sign that grows with x: -0 is 0, and nan is the largest.
__device__ unsigned int ascending(unsigned int x) { return x; }
__device__ unsigned int ascending(int x) { return (unsigned int)x ^ 0x80000000u; }
__device__ unsigned long long ascending(unsigned long long x) { return x; }
__device__ unsigned long long ascending(long long x) {
  return (unsigned long long)x ^ 0x8000000000000000ull;
}
__device__ unsigned int ascending(float x) {
  if (x != x) return 0xffffffffu;
  const unsigned int bits = x == 0.0f ? 0u : (unsigned int)__float_as_int(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ unsigned long long ascending(double x) {
  if (x != x) return 0xffffffffffffffffull;
  const unsigned long long bits = x == 0.0 ? 0ull : (unsigned long long)__double_as_longlong(x);
  return bits & 0x8000000000000000ull ? ~bits : bits | 0x8000000000000000ull;
}""",
    "descending": """
// A whole number without sign that falls as x grows: nan is 0.
template <typename T>
__device__ auto descending(T x) {
  return ~ascending(x);
}""",
    "key_of_max": """
// What is largest where x is, or where it is nan.
template <typename T>
__device__ auto key_of_max(T x) {
  return ascending(x);
}""",
    "key_of_min": """
// What is largest where x is smallest, or where it is nan.
template <typename T>
__device__ auto key_of_min(T x) {
  return x != x ? ascending(x) : ~ascending(x);
}""",
    "floor_divide": """
// The quotient of signed integers rounded to minus infinity; by 0 it is 0, and it wraps.
template <typename T>
__device__ T floor_divide(T x, T y) {
  if (y == 0) return 0;
  if (y == -1) return (T)(0ull - (unsigned long long)x);
  const T quotient = x / y, rest = x % y;
  return rest != 0 && (rest < 0) != (y < 0) ? quotient - 1 : quotient;
}""",
    "floor_remainder": """
// What floor_divide leaves, with the sign of y; by 0 it is 0.
template <typename T>
__device__ T floor_remainder(T x, T y) {
  if (y == 0 || y == -1) return 0;
  const T rest = x % y;
  return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}""",
    "signed_remainder": """
// x - floor(x / y) * y of floats, with the sign of y.
__device__ float signed_remainder(float x, float y) {
  const float rest = fmodf(x, y);
  if (rest == 0) return copysignf(0.0f, y);
  return (rest < 0) != (y < 0) ? rest + y : rest;
}
__device__ double signed_remainder(double x, double y) {
  const double rest = fmod(x, y);
  if (rest == 0) return copysign(0.0, y);
  return (rest < 0) != (y < 0) ? rest + y : rest;
}""",
    "saturated": """
// A float as an integer, towards zero: up to `least` it is `low`, from `most` on `high`; nan is 0.
template <typename T, typename F>
__device__ T saturated(F x, F least, F most, T low, T high) {
  return x != x ? (T)0 : x <= least ? low : x >= most ? high : (T)x;
}""",
    "fail": f"""
// Report a bad index: the least number and place win, together with what is said there.
__device__ __forceinline__ void fail(unsigned long long* error, unsigned int number,
                                     long long place, long long value, int axis) {{
  const unsigned long long most = 4294967295ull, at = place;
  const unsigned long long key = (unsigned long long)number << 40 | (at < most ? at : most) << 8;
  #pragma unroll 1
  for (int part = 0; part < {PARTS}; ++part) {{
    atomicMin(&error[part], key | ((unsigned long long)value >> 8 * part & 255));
  }}
  atomicMin(&error[{PARTS}], key | (unsigned long long)axis);
}}""",
}

for _kind, _text in COMBINED.items():
    HELPERS[f"warp_{_kind}"] = f"""
// The {_kind} over a whole warp, in every lane of it.
template <typename T>
__device__ T warp_{_kind}(T x) {{
  for (int apart = 16; apart > 0; apart /= 2) {{
    const T y = __shfl_xor_sync(0xffffffffu, x, apart);
    x = {_text};
  }}
  return x;
}}"""
    HELPERS[f"block_{_kind}"] = f"""
// The {_kind} over a block of whole warps, in every thread; `parts` is shared, an element a warp.
template <typename T>
__device__ T block_{_kind}(T x, T* parts) {{
  x = warp_{_kind}(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = parts[0];
  for (int warp = 1; warp < blockDim.x / 32; ++warp) {{
    const T y = parts[warp];
    x = {_text};
  }}
  __syncthreads();  // `parts` may be written again
  return x;
}}"""


def called(*texts: str) -> tuple[str, ...]:
    """The helpers that some texts name.

    Example:
        >>> called("const float y = larger(x, 0.0f);")
        ('larger',)
    """
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    return tuple(name for name in HELPERS if name in words)


def declarations(names: Iterable[str]) -> str:
    """The text of helpers, each once and after those that it calls."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        for other in called(HELPERS[name]):
            if other != name:
                visit(other)
        order[name] = None

    for name in sorted(set(names), key=list(HELPERS).index):
        visit(name)
    return "\n".join(HELPERS[name] for name in order)
