"""The emulated device does what CUDA C++ says, and launches only what a device would."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess

import ml_dtypes
import numpy as np
import pytest

from backends.cuda.device import Array, DeviceError, Product, Span
from backends.cuda.emulator import EmulatedDevice
from backends.cuda.emulator.build import trim

SOURCE = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>

__device__ __forceinline__ float block_sum(float v) {
  __shared__ float partial[32];
  for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  v = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f;
  if (threadIdx.x < 32) {
    for (int step = 16; step > 0; step >>= 1) v += __shfl_down_sync(0xffffffffu, v, step);
  }
  return v;
}

extern "C" __global__ void __launch_bounds__(128) row_sums(const float* x, float* y, int columns) {
  float v = 0.0f;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) v += x[blockIdx.x * columns + i];
  v = block_sum(v);
  if (threadIdx.x == 0) y[blockIdx.x] = v;
}

extern "C" __global__ void transpose(const double* x, double* y, int rows, int columns) {
  extern __shared__ double tile[];
  int r = blockIdx.y * 8 + threadIdx.y, c = blockIdx.x * 8 + threadIdx.x;
  if (r < rows && c < columns) tile[threadIdx.y * 9 + threadIdx.x] = x[r * columns + c];
  __syncthreads();
  r = blockIdx.y * 8 + threadIdx.x, c = blockIdx.x * 8 + threadIdx.y;
  if (r < rows && c < columns) y[c * rows + r] = tile[threadIdx.x * 9 + threadIdx.y];
}

extern "C" __global__ void to_narrow(const float* x, __half* h, __nv_bfloat16* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) h[i] = __float2half(x[i]), b[i] = __float2bfloat16(x[i]);
}

extern "C" __global__ void from_narrow(const __half* h, const __nv_bfloat16* b,
                                       float* x, float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  x[i] = __half2float(h[i]), y[i] = __bfloat162float(b[i]);
}

extern "C" __global__ void from_double(const double* x, __half* h, __nv_bfloat16* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) h[i] = __half(x[i]), b[i] = __nv_bfloat16(x[i]);
}

extern "C" __global__ void histogram(const int* x, int* counts, float* sum, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(&counts[x[i]], 1), atomicAdd(sum, 1.0f);
}

extern "C" __global__ void lanes(unsigned* out) {
  unsigned lane = threadIdx.x, all = 0xffffffffu;
  out[lane] = __ballot_sync(all, lane % 3 == 0);
  out[32 + lane] = __shfl_up_sync(all, lane, 2, 8);
  out[64 + lane] = __shfl_sync(all, lane, 33);
  out[96 + lane] = __reduce_max_sync(all, (int)lane - 40);
  out[128 + lane] = __match_any_sync(all, lane / 16);
  if (lane < 8) out[160 + lane] = __shfl_xor_sync(0xffu, lane, 3);
  else out[160 + lane] = __all_sync(0xffffff00u, lane > 7) + 2 * __any_sync(0xffffff00u, lane > 31);
  out[192 + lane] = __syncthreads_count(lane < 5);
}

extern "C" __global__ void numbers(const unsigned* x, const unsigned long long* w, double* d,
                                   unsigned* out, long long* wide) {
  out[0] = __umulhi(x[0], x[1]), out[1] = __brev(x[0]), out[2] = __popc(x[0]);
  out[3] = __clz((int)(x[0] >> 4)), out[4] = __byte_perm(x[0], x[1], 0x5140);
  out[5] = __funnelshift_l(x[0], x[1], 8), out[6] = __float_as_uint(1.5f), out[7] = __ffs(8);
  wide[0] = (long long)__umul64hi(w[0], w[1]), wide[1] = __double2ll_rz(-1e30);
  wide[2] = __float2int_rz(3e9f), wide[3] = __float2uint_rz(-1.0f), wide[4] = __clzll(1);
  d[0] = expm1(1e-9), d[1] = log1p(1e-9), d[2] = erf(0.5), d[3] = rint(2.5), d[4] = fmod(-5.5, 2.0);
  d[5] = atan2(1.0, -1.0), d[6] = pow(2.0, 0.5), d[7] = fma(3.0, 4.0, 5.0), d[8] = expf(1.0f);
  d[9] = __longlong_as_double(0x3ff0000000000000LL), d[10] = max(2, 3.5f), d[11] = min(-7LL, 2);
}

extern "C" __global__ void vectors(const float4* x, double2* y, uchar4* z) {
  float4 v = x[threadIdx.x];
  y[threadIdx.x] = make_double2(v.x + v.y, v.z + v.w);
  z[threadIdx.x] = make_uchar4(v.x, v.y, v.z, v.w);
}

extern "C" __global__ void narrow_tile(__half* x) {
  __shared__ __half tile[8][9];
  tile[threadIdx.y][threadIdx.x] = x[threadIdx.y * 8 + threadIdx.x];
  __syncthreads();
  x[threadIdx.y * 8 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}

extern "C" __global__ void shifted(const float* x, float* y, int by) {
  y[threadIdx.x] = x[(int)threadIdx.x + by];
}

extern "C" __global__ void endless(volatile int* x) { while (*x >= 0) {} }

extern "C" __global__ void large(char* x) {
  __shared__ char all[50000];
  all[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = all[31 - threadIdx.x];
}

struct Pair { const float* x; float* y; };
extern "C" __global__ void through_struct(Pair pair, bool negative, short by, __half scale) {
  int i = threadIdx.x;
  pair.y[i] = (negative ? -pair.x[i] : pair.x[i]) * (float)scale + by;
}
"""
NAMES = (
    *("row_sums", "transpose", "to_narrow", "from_narrow", "from_double", "histogram", "lanes"),
    *("numbers", "vectors", "narrow_tile", "shifted", "endless", "large", "through_struct"),
)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "races"])
def device(request, emulated_folder) -> EmulatedDevice:
    return EmulatedDevice(milliseconds=2000, races=request.param, folder=emulated_folder)


@pytest.fixture(scope="module")
def kernels(device):
    return device.compile(SOURCE, NAMES)


def put(device, array) -> Span:
    array = np.ascontiguousarray(array)
    span = Span(device.empty(array.nbytes), 0, array.nbytes)
    device.to_device(span, array)
    return span


def get(device, span, like):
    host = np.empty_like(like)
    device.to_host(span, host)
    return host


def run(device, kernel, grid, block, *arguments, shared=0, stream=None):
    """Launch on arrays and numbers; the arrays afterwards."""
    spans = [put(device, a) if isinstance(a, np.ndarray) else None for a in arguments]
    given = [
        np.uint64(span.address) if span else a for a, span in zip(arguments, spans, strict=True)
    ]
    grid, block = (tuple([*sizes, 1, 1][:3]) for sizes in (grid, block))
    device.launch(kernel, grid, block, shared, given, stream)
    device.synchronize()
    return [get(device, s, a) for a, s in zip(arguments, spans, strict=True) if s]


@pytest.mark.parametrize("seed", range(3))
def test_a_reduction_through_shuffles_and_shared_memory(device, kernels, seed):
    device = EmulatedDevice(seed, races=device.races)
    x = np.random.default_rng(seed).standard_normal((5, 300)).astype("f4")
    y = run(device, kernels["row_sums"], (5,), (128,), x, np.zeros(5, "f4"), np.int32(300))[1]
    np.testing.assert_allclose(y, x.sum(1), rtol=1e-5, atol=1e-5)


def test_a_transpose_through_dynamic_shared_memory(device, kernels):
    x = np.arange(12.0 * 19).reshape(12, 19)
    out = run(
        *(device, kernels["transpose"], (3, 2), (8, 8), x, np.zeros((19, 12))),
        *(np.int32(12), np.int32(19)),
        shared=8 * 9 * 8,
    )
    np.testing.assert_array_equal(out[1], x.T)


def test_narrow_floats_round_to_nearest_even_as_numpy_does(device, kernels):
    bits = np.random.default_rng(0).integers(0, 2**32, 60_000, np.uint32)
    edges = np.array([65519.99, 65520, 65520.01, -65520, np.inf, 3.4e38, 2**-25, 2**-24], "f4")
    with np.errstate(over="ignore", invalid="ignore"):
        halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype("f4")
        between = (halves[:-1].astype("f8") + halves[1:].astype("f8")) / 2  # ties
        x = np.concatenate([bits.view("f4"), halves, between.astype("f4"), edges])
        empty = np.zeros(x.size, "f2"), np.zeros(x.size, ml_dtypes.bfloat16)
        blocks = (-(-x.size // 256),)
        _, h, b = run(device, kernels["to_narrow"], blocks, (256,), x, *empty, np.int32(x.size))
        np.testing.assert_array_equal(h, x.astype("f2"))
        np.testing.assert_array_equal(b.astype("f4"), x.astype(ml_dtypes.bfloat16).astype("f4"))
        wide = x.astype("f8") * (1 + 2.0**-40)  # rounding to float32 first would find ties
        _, h, b = run(
            device, kernels["from_double"], blocks, (256,), wide, *empty, np.int32(x.size)
        )
        np.testing.assert_array_equal(h, wide.astype("f2"))


def test_every_narrow_float_becomes_a_float(device, kernels):
    h = np.arange(2**16, dtype=np.uint16).view("f2")
    b = h.view(ml_dtypes.bfloat16)
    out = np.zeros(2**16, "f4"), np.zeros(2**16, "f4")
    _, _, x, y = run(device, kernels["from_narrow"], (256,), (256,), h, b, *out)
    with np.errstate(invalid="ignore"):  # signalling nans
        np.testing.assert_array_equal(x, h.astype("f4"))
        np.testing.assert_array_equal(y, b.astype("f4"))


def test_atomics(device, kernels):
    x = np.random.default_rng(0).integers(0, 10, 1000).astype(np.int32)
    counts, total = np.zeros(10, np.int32), np.zeros(1, "f4")
    _, counts, total = run(
        device, kernels["histogram"], (8,), (128,), x, counts, total, np.int32(1000)
    )
    np.testing.assert_array_equal(counts, np.bincount(x))
    assert total == 1000


def test_collectives_of_a_warp(device, kernels):
    (out,) = run(device, kernels["lanes"], (1,), (32,), np.zeros((7, 32), np.uint32))
    lane = np.arange(32)
    assert (out[0] == sum(1 << i for i in range(0, 32, 3))).all()
    np.testing.assert_array_equal(out[1], np.where(lane % 8 < 2, lane, lane - 2))
    assert (out[2] == 1).all() and (out[3].view(np.int32) == -9).all() and (out[6] == 5).all()
    np.testing.assert_array_equal(out[4], np.where(lane < 16, 0xFFFF, 0xFFFF0000))
    np.testing.assert_array_equal(out[5], np.where(lane < 8, lane ^ 3, 1))


def test_intrinsics_and_mathematics(device, kernels):
    x = np.array([0xDEADBEEF, 0x12345678], np.uint32)
    w = np.array([0xDEADBEEFDEADBEEF, 0x123456789ABCDEF0], np.uint64)
    out = np.zeros(12), np.zeros(8, np.uint32), np.zeros(5, np.int64)
    _, _, d, narrow, wide = run(device, kernels["numbers"], (1,), (1,), x, w, *out)
    a, b = map(int, x)
    expected = [a * b >> 32, int(f"{a:032b}"[::-1], 2), a.bit_count(), 4, 0x56BE78EF]
    assert narrow.tolist() == [*expected, (b << 8 | a >> 24) & 0xFFFFFFFF, 0x3FC00000, 4]
    high = int(w[0]) * int(w[1]) >> 64
    assert wide.tolist() == [high, -(2**63), 2**31 - 1, 0, 63]
    reference = [
        1e-9,
        1e-9,
        0.5204998778130465,
        2,
        -1.5,
        3 * np.pi / 4,
        2**0.5,
        17,
        np.e,
        1,
        3.5,
        -7,
    ]
    np.testing.assert_allclose(d, reference, rtol=1e-7)


def test_vectors(device, kernels):
    x = np.arange(32, dtype="f4").reshape(8, 4)
    _, y, z = run(
        device, kernels["vectors"], (1,), (8,), x, np.zeros((8, 2)), np.zeros((8, 4), np.uint8)
    )
    np.testing.assert_array_equal(y, x.reshape(8, 2, 2).sum(2))
    np.testing.assert_array_equal(z, x)


def test_narrow_numbers_in_shared_memory(device, kernels):
    x = np.arange(64, dtype="f2").reshape(8, 8)
    (y,) = run(device, kernels["narrow_tile"], (1,), (8, 8), x)
    np.testing.assert_array_equal(y, x.T)


def test_a_struct_a_bool_and_narrow_numbers_as_arguments(device, kernels):
    x, y = put(device, np.arange(4, dtype="f4")), put(device, np.zeros(4, "f4"))
    pair = np.array((x.address, y.address), [("x", "u8"), ("y", "u8")])[()]
    given = [pair, np.bool_(True), np.int16(7), np.float16(0.5)]
    device.launch(kernels["through_struct"], (1, 1, 1), (4, 1, 1), 0, given)
    np.testing.assert_array_equal(get(device, y, np.zeros(4, "f4")), [7, 6.5, 6, 5.5])


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((1, 1, 1), (256, 1, 1), 0, "256 threads; __launch_bounds__ promises no more than 128"),
        ((1, 1, 1), (2048, 1, 1), 0, "a block of 2048 threads; sm_90 allows 1024"),
        ((1, 1, 1), (32, 64, 1), 0, "a block of 2048 threads; sm_90"),
        ((1, 70000, 1), (32, 1, 1), 0, "a grid of .*; sm_90 allows"),
        ((0, 1, 1), (32, 1, 1), 0, "a grid of .*; sm_90 allows"),
        ((1, 1, 1), (32, 1, 1), 228 * 1024, "bytes of shared memory"),
    ],
)
def test_a_launch_beyond_the_limits(device, kernels, grid, block, shared, message):
    with pytest.raises(DeviceError, match=f"row_sums: .*{message}"):
        device.launch(kernels["row_sums"], grid, block, shared, [])


def test_more_declared_shared_memory_than_there_is(device, kernels):
    with pytest.raises(DeviceError, match=r"50\d\d\d bytes of shared memory are declared"):
        device.launch(kernels["large"], (1, 1, 1), (1, 1, 1), 0, [])


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({2: np.int64(3)}, "argument 2: int64 for a parameter that is an integer of 4 bytes"),
        ({2: np.uint32(3)}, "argument 2: uint32 for a parameter that is an integer"),
        ({2: np.float32(3)}, "argument 2: float32 for a parameter that is an integer"),
        ({2: 3}, "argument 2: int, which is no number of NumPy"),
        ({0: np.int64(0)}, "argument 0: int64 for a pointer"),
        ({0: np.uint64(4096)}, "argument 0: the address 0x1000 lies in no buffer"),
    ],
)
def test_arguments_that_a_kernel_does_not_take(device, kernels, replaced, message):
    x = put(device, np.zeros(4, "f4"))
    arguments = [np.uint64(x.address), np.uint64(x.address), np.int32(0)]
    arguments = [replaced.get(place, argument) for place, argument in enumerate(arguments)]
    with pytest.raises(DeviceError, match=message):
        device.launch(kernels["shifted"], (1, 1, 1), (4, 1, 1), 0, arguments)
    with pytest.raises(DeviceError, match="2 arguments for 3 parameters"):
        device.launch(kernels["shifted"], (1, 1, 1), (4, 1, 1), 0, arguments[:2])


def test_an_address_that_is_not_aligned(device, kernels):
    x = put(device, np.zeros(4, "f4"))
    arguments = [np.uint64(x.address), np.uint64(x.address + 2), np.int32(0)]
    with pytest.raises(DeviceError, match=r"argument 1: the address .* is no multiple of 4"):
        device.launch(kernels["shifted"], (1, 1, 1), (4, 1, 1), 0, arguments)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (1024, "bytes behind the end of a buffer of 512 bytes"),
        (-2000, "bytes before the start of a buffer of 512 bytes"),
    ],
)
def test_access_outside_of_a_buffer_names_thread_line_and_buffer(device, kernels, by, message):
    x = np.zeros(128, "f4")
    with pytest.raises(DeviceError) as caught:
        run(device, kernels["shifted"], (1,), (128,), x, x, np.int32(by))
    text = str(caught.value)
    assert text.startswith("kernel shifted: access out of bounds") and message in text
    assert "block (0, 0, 0), thread (" in text
    assert "y[threadIdx.x] = x[(int)threadIdx.x + by];" in text


def test_what_was_given_back_is_not_read(device, kernels):
    x, y = put(device, np.zeros(4, "f4")), put(device, np.zeros(4, "f4"))
    arguments = [np.uint64(x.address), np.uint64(y.address), np.int32(0)]
    device.synchronize()
    device.launch(kernels["shifted"], (1, 1, 1), (4, 1, 1), 0, arguments)
    del x
    with pytest.raises(DeviceError, match="a buffer of 16 bytes that was given back"):
        device.synchronize()


def test_a_kernel_that_does_not_end(device, kernels):
    device = EmulatedDevice(milliseconds=50, races=device.races)
    with pytest.raises(DeviceError, match="after 50 ms it still runs"):
        run(device, kernels["endless"], (1,), (1,), np.zeros(1, np.int32))


def test_a_text_that_is_not_cuda(device):
    with pytest.raises(DeviceError, match=r"kernel\.cu:1"):
        device.compile('extern "C" __global__ void k(float* x) { x[0] = missing; }', ["k"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_products(device, dtype):
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    choice = np.random.default_rng(0)
    x = choice.standard_normal((5, 3)).astype(kind)  # lies as (k, m), for every batch
    y = choice.standard_normal((2, 4, 5)).astype(kind)
    out = np.ones((2, 3, 4), kind)
    product = Product(2, 3, 4, 5, True, True, dtype, dtype, add=True, repeat_x=True)
    spans = [put(device, a) for a in (x, y, out)]
    device.gemm(product, *spans)
    expected = 1 + np.einsum("km,bnk->bmn", x.astype("f8"), y.astype("f8"))
    tolerance = {"float64": 1e-14, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    made = get(device, spans[2], out).astype("f8")
    np.testing.assert_allclose(made, expected, rtol=tolerance, atol=tolerance)


def test_decompositions(device):
    a = np.array([[[2.0, 1], [1, 3]], [[1, 2], [2, 1]]])
    x, out = put(device, a), put(device, a)
    assert not device.linalg("cholesky", [(x, (2, 2, 2), "float64")], [(out, (2, 2, 2), "float64")])
    first = [(x.part(0, 32), (2, 2), "float64")]
    assert device.linalg("cholesky", first, [(out.part(0, 32), (2, 2), "float64")])
    lower = get(device, out, a)[0]
    np.testing.assert_allclose(lower @ lower.T, a[0])


def pipeline(device, kernel, waits: bool, x) -> Array:
    """x + 0 on two streams, the second of which may wait for the first."""
    first, second = device.stream(), device.stream()
    source, between, target = (Span(device.empty(x.nbytes), 0, x.nbytes) for _ in range(3))
    device.to_device(source, x, first)
    device.launch(kernel, (1, 1, 1), (32, 1, 1), 0, [source, between, np.int32(0)], first)
    if waits:
        device.wait(second, first)
    device.launch(kernel, (1, 1, 1), (32, 1, 1), 0, [between, target, np.int32(0)], second)
    out = np.empty_like(x)
    device.to_host(target, out, second)
    return out


def test_streams_that_wait(device, kernels):
    x = np.arange(32, dtype="f4")
    for seed in range(5):
        seeded = EmulatedDevice(seed, races=device.races)
        np.testing.assert_array_equal(pipeline(seeded, kernels["shifted"], True, x), x)


@pytest.mark.parametrize("device", [False], indirect=True)
def test_a_missing_wait_gives_wrong_results_at_times(kernels, device):
    x = np.arange(32, dtype="f4")
    results = [pipeline(EmulatedDevice(s), kernels["shifted"], False, x) for s in range(8)]
    right = [np.array_equal(result, x) for result in results]
    assert any(right) and not all(right)


@pytest.mark.parametrize("device", [True], indirect=True)
def test_a_missing_wait_is_found_whatever_the_order(kernels, device):
    message = "kernel shifted reads what kernel shifted, on another stream, writes"
    for seed in range(5):
        with pytest.raises(DeviceError, match=message):
            pipeline(
                EmulatedDevice(seed, races=True), kernels["shifted"], False, np.zeros(32, "f4")
            )


def test_the_host_orders_what_it_waits_for(device, kernels):
    first, second = device.stream(), device.stream()
    span = Span(device.empty(4), 0, 4)
    device.fill(span, 1, first)
    device.synchronize(first)
    device.fill(span, 2, second)
    device.synchronize()
    assert get(device, span, np.zeros(4, np.uint8)).tolist() == [2] * 4


def test_captured_work_is_ordered_as_a_whole(device):
    first, second = device.stream(), device.stream()
    x, y = (Span(device.empty(4), 0, 4) for _ in range(2))

    def work() -> None:
        device.fill(x, 3, first)
        device.wait(second, first)
        device.copy(y, x, second)
        device.wait(first, second)

    graph = device.capture(work, first)
    for _ in range(2):
        device.replay(graph, first)
        device.wait(None, first)
        assert get(device, y, np.zeros(4, np.uint8)).tolist() == [3] * 4
    device.replay(graph, first)
    if device.races:
        with pytest.raises(DeviceError, match="fill writes what replay, on another stream, writes"):
            device.fill(y, 0, second)
    device.synchronize()


@pytest.mark.parametrize("device", [True], indirect=True)
@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda d, x, y: d.to_host(x, np.empty(8, np.uint8)), "to_host: byte 4 of operand 0"),
        (
            lambda d, x, y: d.gemm(
                Product(1, 1, 1, 1, False, False, "float64", "float64"), x, y, y
            ),
            "gemm: byte 4 of operand 0",
        ),
        (
            lambda d, x, y: (d.copy(y, x), d.to_host(y, np.empty(8, np.uint8))),
            "to_host: byte 4 of operand 0",
        ),
    ],
)
def test_memory_that_nobody_wrote(device, work, message):
    x, y = (Span(device.empty(8), 0, 8) for _ in range(2))
    device.fill(x.part(0, 4), 0)
    with pytest.raises(DeviceError, match=message):
        work(device, x, y)
        device.synchronize()


def test_what_was_not_used_for_longest_is_removed(tmp_path):
    for age in range(4):
        (tmp_path / f"{age}.so").write_bytes(bytes(100))
        os.utime(tmp_path / f"{age}.so", (1000 - age, 1000 - age))
    trim(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.so", "1.so"]


def test_what_is_compiled_is_kept_for_other_processes(tmp_path, monkeypatch):
    source = 'extern "C" __global__ void one(float* x) { x[0] = 1.0f; }'
    EmulatedDevice(folder=str(tmp_path)).compile(source, ["one"])
    assert list(tmp_path.glob("*.so"))
    monkeypatch.setattr(subprocess, "run", None)
    device = EmulatedDevice(folder=str(tmp_path))
    (x,) = run(device, device.compile(source, ["one"])["one"], (1,), (1,), np.zeros(1, "f4"))
    assert x == 1


@pytest.mark.parametrize("module", ["build", "compiler", "device", "order", "streams"])
def test_examples_in_docstrings(module):
    found = importlib.import_module(f"backends.cuda.emulator.{module}")
    result = doctest.testmod(found, optionflags=doctest.ELLIPSIS)
    assert result.attempted and not result.failed
