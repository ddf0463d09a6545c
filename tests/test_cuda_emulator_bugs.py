"""Each class of bug that a kernel can have is found by the emulated device, and the kernel without
it passes. A bug is put into a right kernel by replacing a piece of its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from backends.cuda.device import DeviceError, Span
from backends.cuda.emulator import EmulatedDevice

Array = np.ndarray[Any, Any]

# In these texts @ stands for what makes the names of one case its own.
SOFTMAX = r"""
__device__ __forceinline__ float warp_max@(float v) {
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}
__device__ __forceinline__ float warp_sum@(float v) {
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
extern "C" __global__ void kernel@(const float* x, float* y, int columns) {
  __shared__ float partial[4];
  __shared__ float all;
  const float* row = x + blockIdx.x * columns;
  float* out = y + blockIdx.x * columns;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  float m = -3e38f;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) m = fmaxf(m, row[c]);
  m = warp_max@(m);
  if (lane == 0) partial[warp] = m;
  __syncthreads();  // 1
  if (warp == 0) {
    float v = warp_max@(lane < 4 ? partial[lane] : -3e38f);
    if (lane == 0) all = v;
  }
  __syncthreads();  // 2
  m = all;
  float s = 0.0f;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    float e = expf(row[c] - m);
    out[c] = e;
    s += e;
  }
  s = warp_sum@(s);
  if (lane == 0) partial[warp] = s;
  __syncthreads();  // 3
  if (warp == 0) {
    float v = warp_sum@(lane < 4 ? partial[lane] : 0.0f);
    if (lane == 0) all = v;
  }
  __syncthreads();  // 4
  for (int c = threadIdx.x; c < columns; c += blockDim.x) out[c] /= all;
}"""

PRODUCT = r"""
extern "C" __global__ void kernel@(const float* a, const float* b, float* c, int m, int n, int k) {
  extern __shared__ __align__(16) float memory[];
  float* left = memory;
  float* right = memory + 8 * (16 + 4);
  int tx = threadIdx.x, ty = threadIdx.y, t = ty * 4 + tx;
  int m0 = blockIdx.y * 16, n0 = blockIdx.x * 16;
  float sums[4][4] = {};
  for (int k0 = 0; k0 < k; k0 += 8) {
    for (int i = t; i < 128; i += 16) {
      int r = i / 8, s = i % 8;
      left[s * (16 + 4) + r] = m0 + r < m && k0 + s < k ? a[(m0 + r) * k + k0 + s] : 0.0f;
    }
    for (int i = t; i < 128; i += 16) {
      int r = i / 16, s = i % 16;
      right[r * 16 + s] = k0 + r < k && n0 + s < n ? b[(k0 + r) * n + n0 + s] : 0.0f;
    }
    __syncthreads();  // loaded
    for (int s = 0; s < 8; s++) {
      float4 u = *(const float4*)&left[s * (16 + 4) + ty * 4];
      float4 v = *(const float4*)&right[s * 16 + tx * 4];
      float us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sums[i][j] = fmaf(us[i], vs[j], sums[i][j]);
    }
    __syncthreads();  // used
  }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) {
      int r = m0 + ty * 4 + i, s = n0 + tx * 4 + j;
      if (r < m && s < n) c[r * n + s] = sums[i][j];
    }
}"""

ELEMENTWISE = r"""
extern "C" __global__ void __launch_bounds__(64) kernel@(
    const float* x, const float* bias, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    y[i] = x[i] + bias[i % 17];
  }
}"""


class Empty(NamedTuple):
    """An array that nobody has written."""

    like: Array


class Case(NamedTuple):
    """A launch, and what is in its last array afterwards."""

    text: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    expected: Array
    shared: int = 0


choice = np.random.default_rng(0)


def softmax(text: str = SOFTMAX) -> Case:
    x = choice.standard_normal((3, 200)).astype("f4")
    e = np.exp(x - x.max(1, keepdims=True))
    arguments = (x, Empty(x), np.int32(200))
    return Case(text, (3,), (128,), arguments, e / e.sum(1, keepdims=True))


def product(text: str = PRODUCT, k: int = 19) -> Case:
    a, b = (choice.standard_normal(s).astype("f4") for s in ((22, k), (k, 18)))
    arguments = (a, b, Empty(a @ b), np.int32(22), np.int32(18), np.int32(k))
    return Case(text, (2, 2), (4, 4), arguments, a @ b, 4 * 8 * (20 + 16))


def elementwise(text: str = ELEMENTWISE, n: int = 203, grid: int = 4) -> Case:
    x, bias = choice.standard_normal(n).astype("f4"), choice.standard_normal(17).astype("f4")
    expected = x + bias[np.arange(n) % 17]
    return Case(text, (grid,), (64,), (x, bias, Empty(x), np.int32(n)), expected)


def small(
    body: str, expected: Callable[[Array], Array] = lambda x: x, dtype: str = "f4", grid: int = 2
) -> Case:
    """A kernel of ``x``, ``y`` and ``n``, of blocks of 64 threads for 128 elements."""
    kind = {"f4": "float", "i4": "int"}[dtype]
    x = choice.integers(0, 8, 128).astype(dtype)
    head = f'extern "C" __global__ void kernel@(const {kind}* x, {kind}* y, int n)'
    return Case(
        f"{head} {{\n{body}\n}}", (grid,), (64,), (x, np.zeros_like(x), np.int32(128)), expected(x)
    )


def replaced(text: str, old: str, new: str = "") -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def sums(x: Array) -> Array:
    return np.r_[x.reshape(2, 64).sum(1), np.zeros(126, x.dtype)]


BARRIER = "__syncthreads();  // "
REVERSED = """  __shared__ float s[64];
  int t = threadIdx.x, i = blockIdx.x * 64 + t;
  s[t] = x[i];
  __syncthreads();
  y[i] = s[63 - t];"""
HISTOGRAM = "  atomicAdd(&y[x[blockIdx.x * 64 + threadIdx.x]], 1);"
TAIL = """  __shared__ volatile float s[64];
  int t = threadIdx.x;
  s[t] = x[blockIdx.x * 64 + t];
  __syncthreads();
  if (t < 32) {
    for (int o = 32; o > 0; o >>= 1) {
      float v = s[t + o];
      __syncwarp();
      s[t] += v;
      __syncwarp();
    }
  }
  if (t == 0) y[blockIdx.x] = s[0];"""
LAST_BLOCK = """  __shared__ bool last;
  int t = threadIdx.x;
  if (t < 32) y[8 + blockIdx.x * 32 + t] = x[blockIdx.x * 64 + t];
  __syncthreads();  // all
  if (t == 0) {
    __threadfence();
    last = atomicAdd(&y[0], 1) == 1;
    __threadfence();
  }
  __syncthreads();
  if (last && t < 32) y[72 + t] = y[8 + t] + y[40 + t];"""
WARPS = """  int t = threadIdx.x, i = blockIdx.x * 64 + t;
  float v = x[i];
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  y[i] = v;"""
INDEXED = """  int i = blockIdx.x * 64 + threadIdx.x;
  long long place = (long long)i * 50000000;
  y[place / 50000000] = x[i];"""
ACCUMULATED = """  int i = blockIdx.x * 64 + threadIdx.x;
  float sum = 0.0f;
  for (int j = 0; j < 3; j++) sum += x[i];
  y[i] = sum;"""
VECTORS = """  int i = blockIdx.x * 64 + threadIdx.x;
  if (i < 32) {
    float4 v = ((const float4*)x)[i];
    ((float4*)y)[i] = v;
  }"""


def total_by_warp(x: Array) -> Array:
    return np.repeat(x.reshape(-1, 32).sum(1), 32).astype(x.dtype)


def last_block(x: Array) -> Array:
    y = np.zeros_like(x)
    y[0], y[8:40], y[40:72] = 2, x[:32], x[64:96]
    y[72:104] = x[:32] + x[64:96]
    return y


RIGHT = {
    "softmax": softmax(),
    "product": product(),
    "elementwise": elementwise(),
    "reversed": small(REVERSED, lambda x: x.reshape(2, 64)[:, ::-1].ravel()),
    "histogram": small(HISTOGRAM, lambda x: np.bincount(x, minlength=128), "i4"),
    "tail of a reduction in a warp": small(TAIL, sums),
    "last block": small(LAST_BLOCK, last_block, "i4"),
    "sums of warps": small(WARPS, total_by_warp),
    "accumulated": small(ACCUMULATED, lambda x: 3 * x),
    "indexed by wide numbers": small(INDEXED),
    "vectors": small(VECTORS),
}

UNORDERED = r"a race for .*nothing orders"
OUTSIDE = r"access out of bounds: it (reads|writes) 4 bytes "
WRONG: dict[str, tuple[Case, str]] = {
    **{
        f"softmax without barrier {i}": (
            softmax(replaced(SOFTMAX, f"{BARRIER}{i}")),
            rf"{UNORDERED}|which nobody wrote",
        )
        for i in range(1, 5)
    },
    "a shuffle for half of the lanes": (
        small(WARPS.replace("0xffffffffu", "0xffffu")),
        "whose mask 0000ffff has not got it",
    ),
    "product without the barrier behind the loads": (
        product(replaced(PRODUCT, f"{BARRIER}loaded")),
        rf"{UNORDERED}|which nobody wrote",
    ),
    "product without the barrier behind the uses": (
        product(replaced(PRODUCT, f"{BARRIER}used")),
        UNORDERED,
    ),
    "product that writes a row too many": (
        product(replaced(PRODUCT, "r < m && s < n) c", "r <= m && s < n) c")),
        OUTSIDE + r"\d+ bytes behind the end of argument 2 of 1584 bytes",
    ),
    "product that loads without a guard": (
        product(replaced(PRODUCT, "m0 + r < m && k0 + s < k ?", "m0 + r < m ?")),
        OUTSIDE + ".*argument 0",
    ),
    "product with misaligned vectors": (
        product(PRODUCT.replace("(16 + 4)", "(16 + 3)")),
        "misaligned access: an address of type 'const struct float4'.* multiples of 16",
    ),
    "product with too little shared memory": (
        product()._replace(shared=4 * 8 * (20 + 15)),
        "access out of bounds: it .* of shared memory of 1120 bytes",
    ),
    "elementwise, one too many": (
        elementwise(replaced(ELEMENTWISE, "i < n", "i <= n")),
        OUTSIDE + "0 bytes behind the end of argument 0 of 812 bytes",
    ),
    "elementwise, one too many, behind whole vectors": (
        elementwise(replaced(ELEMENTWISE, "i < n", "i <= n"), 204),
        OUTSIDE + "0 bytes behind the end of argument 0 of 816 bytes",
    ),
    "elementwise without a guard": (
        elementwise(replaced(ELEMENTWISE, "if (i < n)")),
        OUTSIDE,
    ),
    "elementwise, a block too few": (elementwise(grid=3), "which nobody wrote"),
    "elementwise that looks far away": (
        elementwise(replaced(ELEMENTWISE, "y[i] =", "y[(long long)i << 44] =")),
        "access out of bounds: it writes 4 bytes outside of what the kernel is given",
    ),
    "elementwise that looks back": (
        elementwise(replaced(ELEMENTWISE, "x[i]", "x[i - 1]")),
        OUTSIDE + "4 bytes before the start of argument 0",
    ),
    "a barrier for half of a block": (
        small("if (threadIdx.x < 32) __syncthreads();\n" + REVERSED),
        "divergent barriers: line .* and, .*line .*: __syncthreads",
    ),
    "two barriers that are not the same": (
        small(f"if (threadIdx.x < 32) {{\n{BARRIER}\n }} else {{\n{BARRIER}\n }}"),
        "divergent barriers",
    ),
    "a return before a barrier": (
        small(replaced(REVERSED, "s[t] = x[i];", "if (t > 50) return;\n  s[t] = x[i];")),
        "13 of the 64 threads of block .* have returned before the barrier: line",
    ),
    "a shuffle behind a return": (
        small(replaced(WARPS, "float v = x[i];", "if (t % 32 > 20) return;\n float v = x[i];")),
        "a shuffle reads lane .*, which takes no part",
    ),
    "a tail that takes a warp to be in step": (small(TAIL.replace("__syncwarp();", "")), UNORDERED),
    "a histogram without atomics": (
        small(replaced(HISTOGRAM, "atomicAdd(&y[", "y[").replace("], 1)", "] += 1"), dtype="i4"),
        UNORDERED,
    ),
    "two blocks at one place": (small("y[threadIdx.x] = x[threadIdx.x];"), UNORDERED),
    "what another block has just written": (
        small(
            """  int i = blockIdx.x * 64 + threadIdx.x;
  y[i] = x[i];
  __syncthreads();
  if (blockIdx.x == 1) y[i] += y[i - 64];"""
        ),
        UNORDERED,
    ),
    "an array that is too small": (
        small(replaced(REVERSED, "s[64]", "s[63]")),
        r"index 63 is outside an array of type 'float \[63\]'",
    ),
    "shared memory that nobody wrote": (
        small(replaced(REVERSED, "s[t] = x[i];", "if (t) s[t] = x[i];")),
        "of shared memory is read, which nobody wrote",
    ),
    "a product of integers that overflows": (
        small(replaced(INDEXED, "(long long)i", "i")),
        "a product of type 'int' overflows",
    ),
    "a division by zero": (
        small("  y[blockIdx.x * 64 + threadIdx.x] = 5 / (n - 128);"),
        "an integer is divided by zero",
    ),
    "a wait for another thread": (
        small(
            """  __shared__ volatile int f;
  if (threadIdx.x == 0) { f = 0; while (f != 7); } else if (threadIdx.x == 1) f = 7;"""
        ),
        f"after .* ms it still runs|{UNORDERED}",
    ),
    "the last block, without the first fence": (
        small(replaced(LAST_BLOCK, "    __threadfence();\n    last", "    last"), dtype="i4"),
        UNORDERED,
    ),
    "the last block, without the second fence": (
        small(replaced(LAST_BLOCK, "== 1;\n    __threadfence();", "== 1;"), dtype="i4"),
        UNORDERED,
    ),
    "the last block, without a barrier before": (
        small(replaced(LAST_BLOCK, "__syncthreads();  // all"), dtype="i4"),
        UNORDERED,
    ),
    "a result that is const": (
        small("  ((float*)x)[blockIdx.x * 64 + threadIdx.x] = 1.0f;"),
        "byte .* of argument 0, which is const, is written",
    ),
    "a vector across the end": (
        small(replaced(VECTORS, "i < 32", "i < 33")),
        "access out of bounds: it reads 16 bytes 0 bytes behind the end of argument 0",
    ),
    "a misaligned vector of a buffer": (
        small(
            replaced(VECTORS, "((const float4*)x)", "((const float4*)(x + 1))").replace("32", "31")
        ),
        "misaligned access: an address of type 'const struct float4'.* is at byte",
    ),
    "a misaligned atomic": (
        small("  atomicAdd((float*)((char*)y + 2), 1.0f);"),
        "misaligned access",
    ),
}


def unit(cases: dict[str, Case]) -> str:
    """One translation unit of all."""
    texts = [case.text.replace("@", f"_{i}") for i, case in enumerate(cases.values())]
    return "\n".join(texts)


def play(device: EmulatedDevice, kernel: Any, case: Case) -> Array:
    """The last array after a launch. All lie in one buffer, as the memory of a program does, with
    gaps between them."""
    arrays = [a.like if isinstance(a, Empty) else a for a in case.arguments]
    places = np.cumsum([0, *(-(-a.nbytes // 256) * 256 + 256 for a in arrays)])
    memory = Span(device.empty(int(places[-1])), 0, int(places[-1]))
    given: list[Any] = []
    for argument, array, place in zip(case.arguments, arrays, places, strict=False):
        if isinstance(argument, np.generic):
            given.append(argument)
            continue
        given.append(memory.part(int(place), array.nbytes))
        if argument is array:
            device.to_device(given[-1], array)
    grid, block = (tuple([*sizes, 1, 1][:3]) for sizes in (case.grid, case.block))
    device.launch(kernel, grid, block, case.shared, given)
    last = max(i for i, span in enumerate(given) if isinstance(span, Span))
    out = np.empty_like(arrays[last])
    device.to_host(given[last], out)
    return out


@pytest.fixture(scope="module")
def kernels(emulated_folder) -> dict[str, Any]:
    device = EmulatedDevice(races=True, folder=emulated_folder)
    cases = {**RIGHT, **{name: case for name, (case, _) in WRONG.items()}}
    functions = device.compile(unit(cases), [f"kernel_{i}" for i in range(len(cases))])
    return dict(zip(cases, functions.values(), strict=True))


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("seed", range(3))
def test_a_right_kernel_passes(kernels, name, seed):
    case = RIGHT[name]
    out = play(EmulatedDevice(seed, races=True), kernels[name], case)
    np.testing.assert_allclose(out, case.expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("seed", range(3))
def test_a_bug_is_found(kernels, name, seed):
    case, message = WRONG[name]
    with pytest.raises(DeviceError, match=message):
        play(EmulatedDevice(seed, milliseconds=100, races=True), kernels[name], case)


def test_a_register_that_nobody_set(emulated_folder):
    text = small("  float sum;\n  y[threadIdx.x] = x[threadIdx.x] + sum;").text.replace("@", "")
    device = EmulatedDevice(races=True, folder=emulated_folder)
    with pytest.raises(DeviceError, match="is used uninitialized"):
        device.compile(text, ["kernel"])


def test_a_register_that_some_threads_do_not_set(emulated_folder):
    """The compiler may not know it, so the result is plainly wrong."""
    body = """  int i = blockIdx.x * 64 + threadIdx.x;
  float value;
  if (x[i] != 3.0f) value = x[i];
  y[i] = value;"""
    case, device = small(body), EmulatedDevice(races=True, folder=emulated_folder)
    kernel = device.compile(case.text.replace("@", ""), ["kernel"])["kernel"]
    out = play(device, kernel, case)
    some = case.arguments[0] == 3
    assert (np.abs(out[some]) > 1e38).all() and (out[~some] == case.arguments[0][~some]).all()
