"""What every device of the CUDA backend does: the emulated one, and a real one where there is one
(``pytest -m gpu``)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from backends.cuda.device import Array, Device, DeviceError, Product, Span
from staging.interpret import numpy_dtype
from staging.ir import Type
from staging.linalg import KINDS, types_of
from staging.linalg import ROUTINES as REFERENCE

SOURCE = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>

extern "C" __global__ void __launch_bounds__(256) scaled(
    const float* x, float* y, float factor, long long n) {
  for (long long i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) {
    y[i] = factor * x[i];
  }
}

extern "C" __global__ void __launch_bounds__(128) reversed_rows(const float* x, float* y, int n) {
  extern __shared__ float row[];
  for (int i = threadIdx.x; i < n; i += 128) row[i] = x[blockIdx.x * n + i];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += 128) y[blockIdx.x * n + i] = row[n - 1 - i];
}

extern "C" __global__ void __launch_bounds__(32) narrowed(
    const float* x, __half* h, __nv_bfloat16* b) {
  h[threadIdx.x] = __float2half_rn(x[threadIdx.x]);
  b[threadIdx.x] = __float2bfloat16_rn(x[threadIdx.x]);
}
"""
NAMES = ["scaled", "reversed_rows", "narrowed"]


@pytest.fixture(scope="module")
def kernels(cuda: Device) -> dict[str, Any]:
    return cuda.compile(SOURCE, NAMES)


def room(device: Device, bytes: int) -> Span:
    return Span(device.empty(bytes, "tests"), 0, bytes)


def put(device: Device, array: Any) -> Span:
    array = np.ascontiguousarray(array)
    span = room(device, array.nbytes)
    device.to_device(span, array)
    return span


def got(device: Device, span: Span, shape: tuple[int, ...], dtype: Any) -> Array:
    host = np.empty(shape, dtype)
    device.to_host(span, host)
    return host


def address(span: Span) -> np.uint64:
    return np.uint64(span.address)


def test_memory_is_aligned_and_keeps_bytes(cuda: Device) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 5, 256, 10_001):
        x = rng.integers(256, size=n).astype(np.uint8)
        span, other = put(cuda, x), room(cuda, n)
        assert span.address % 256 == 0
        cuda.copy(other, span)
        np.testing.assert_array_equal(got(cuda, other, (n,), np.uint8), x)
        cuda.fill(other.part(n // 2, n - n // 2), 7)
        x[n // 2 :] = 7
        np.testing.assert_array_equal(got(cuda, other, (n,), np.uint8), x)


def test_the_host_may_change_what_it_gave(cuda: Device) -> None:
    x = np.ones(1 << 16, np.float32)
    span = put(cuda, x)
    x[:] = 2
    assert got(cuda, span, x.shape, x.dtype).max() == 1


def test_kernels_take_numbers_and_addresses(cuda: Device, kernels: dict[str, Any]) -> None:
    x = np.arange(1000, dtype=np.float32)
    source, target = put(cuda, x), room(cuda, x.nbytes)
    given = address(source), address(target), np.float32(0.5), np.int64(1000)
    cuda.launch(kernels["scaled"], (3, 1, 1), (256, 1, 1), 0, given)
    np.testing.assert_array_equal(got(cuda, target, x.shape, x.dtype), x / 2)


@pytest.mark.parametrize("columns", [100, 20_000])  # 80 kB: more than is given unasked
def test_kernels_have_dynamic_shared_memory(
    cuda: Device, kernels: dict[str, Any], columns: int
) -> None:
    x = np.arange(3 * columns, dtype=np.float32).reshape(3, columns)
    source, target = put(cuda, x), room(cuda, x.nbytes)
    given = address(source), address(target), np.int32(columns)
    cuda.launch(kernels["reversed_rows"], (3, 1, 1), (128, 1, 1), 4 * columns, given)
    np.testing.assert_array_equal(got(cuda, target, x.shape, x.dtype), x[:, ::-1])


def test_kernels_know_narrow_floats(cuda: Device, kernels: dict[str, Any]) -> None:
    x = np.linspace(-70_000, 70_000, 32, dtype=np.float32)
    source, half, brain = put(cuda, x), room(cuda, 64), room(cuda, 64)
    given = address(source), address(half), address(brain)
    cuda.launch(kernels["narrowed"], (1, 1, 1), (32, 1, 1), 0, given)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got(cuda, half, (32,), np.float16), x.astype(np.float16))
    np.testing.assert_array_equal(got(cuda, brain, (32,), bfloat16), x.astype(bfloat16))


@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [
        ((1, 1, 1), (512, 1, 1), 0),  # __launch_bounds__(256)
        ((1, 70_000, 1), (256, 1, 1), 0),
        ((1, 1, 1), (256, 1, 1), 2**20),
    ],
)
def test_impossible_launches_are_refused(
    cuda: Device, kernels: dict[str, Any], grid: Any, block: Any, shared: int
) -> None:
    span = put(cuda, np.zeros(4, np.float32))
    given = address(span), address(span), np.float32(1), np.int64(4)
    with pytest.raises(DeviceError, match="scaled"):
        cuda.launch(kernels["scaled"], grid, block, shared, given)
        cuda.synchronize()


def test_a_text_that_is_no_cuda_is_refused(cuda: Device) -> None:
    with pytest.raises(DeviceError, match="missing"):
        cuda.compile('extern "C" __global__ void k(float* x) { x[0] = missing; }', ["k"])


@pytest.mark.parametrize(
    ("dtype", "out", "tolerance"),
    [
        ("float64", "float64", 1e-13), ("float32", "float32", 1e-5),
        ("float16", "float16", 2e-3), ("float16", "float32", 1e-5),
        ("bfloat16", "bfloat16", 2e-2), ("bfloat16", "float32", 1e-5),
    ],
)  # fmt: skip
def test_products(cuda: Device, dtype: str, out: str, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    for (batch, m, n, k), tx, ty, add in itertools.product(
        [(1, 3, 5, 7), (4, 33, 2, 17), (2, 1, 1, 64), (2, 3, 4, 0)], *[(False, True)] * 3
    ):
        for rx, ry in ((False, False), (True, False), (False, True)):
            x = rng.standard_normal((1 if rx else batch, m, k)).astype(numpy_dtype(dtype))
            y = rng.standard_normal((1 if ry else batch, k, n)).astype(numpy_dtype(dtype))
            z = rng.standard_normal((batch, m, n)).astype(numpy_dtype(out))
            x_span = put(cuda, x.swapaxes(1, 2) if tx else x)
            y_span = put(cuda, y.swapaxes(1, 2) if ty else y)
            z_span = put(cuda, z)
            product = Product(batch, m, n, k, tx, ty, dtype, out, add, rx, ry)
            cuda.gemm(product, x_span, y_span, z_span)
            wanted = x.astype(np.float64) @ y.astype(np.float64) + (z if add else 0.0)
            found = got(cuda, z_span, z.shape, z.dtype).astype(np.float64)
            scale = max(1.0, np.abs(wanted).max(initial=0))
            assert np.abs(found - wanted).max(initial=0) <= tolerance * scale, product


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_side_by_side(cuda: Device, dtype: str) -> None:
    """One matrix is an operand of all, as that which several weights multiply."""
    rng = np.random.default_rng(3)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for tx, ty, add in itertools.product(*[(False, True)] * 3):
        x = rng.standard_normal((5, 33)).astype(dtype)
        ys, zs = (list(rng.standard_normal((3, *s)).astype(dtype)) for s in ((33, 7), (5, 7)))
        xs = [put(cuda, x.T if tx else x)] * 3
        y_spans, outs = [put(cuda, y.T if ty else y) for y in ys], [put(cuda, z) for z in zs]
        product = Product(3, 5, 7, 33, tx, ty, dtype, dtype, add)
        cuda.gemms(product, xs, y_spans, outs)
        for y, z, out in zip(ys, zs, outs, strict=True):
            wanted = x @ y + (z if add else 0)
            np.testing.assert_allclose(got(cuda, out, (5, 7), dtype), wanted, tolerance, tolerance)


def test_products_give_the_same_bits_each_time(cuda: Device) -> None:
    rng = np.random.default_rng(2)
    x, y = (put(cuda, rng.standard_normal((96, 96)).astype(np.float32)) for _ in range(2))
    product = Product(1, 96, 96, 96, False, False, "float32", "float32")
    found = []
    for stream in (None, cuda.stream(), cuda.stream()):
        out = room(cuda, 4 * 96 * 96)
        cuda.wait(stream, None)
        cuda.gemm(product, x, y, out, stream)
        cuda.wait(None, stream)
        found.append(got(cuda, out, (96, 96), np.float32))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def rebuilt(kind: str, a: Array, found: list[Array]) -> tuple[Array, Array]:
    """Two arrays that are equal if a decomposition is right, whatever the signs of its vectors."""
    if kind == "eigh":
        return found[1] * found[0][..., None, :] @ found[1].swapaxes(-1, -2), a
    if kind == "qr":
        return found[0] @ found[1], a
    if kind == "svd":
        return found[0] * found[1][..., None, :] @ found[2], a
    if kind == "complete":
        return found[0] @ found[0].swapaxes(-1, -2), np.broadcast_to(np.eye(a.shape[-2]), a.shape)
    raise NotImplementedError(kind)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_decompositions(cuda: Device, kind: str, lead: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(4)
    a = rng.standard_normal((*lead, 5, 5))
    a = (a @ a.swapaxes(-1, -2) + np.eye(5)).astype(dtype)
    arrays = [a, rng.standard_normal((*lead, 5, 2)).astype(dtype)][: 1 + (kind == "solve")]
    types = types_of(kind, tuple(Type(dtype, x.shape) for x in arrays))
    outputs = [(room(cuda, t.bytes), t.shape, dtype) for t in types]
    assert cuda.linalg(kind, [(put(cuda, x), x.shape, dtype) for x in arrays], outputs)
    found = [got(cuda, span, shape, dtype) for span, shape, _ in outputs]
    tolerance = 1e-3 if dtype == "float32" else 1e-10
    if kind in ("eigh", "qr", "svd", "complete"):
        np.testing.assert_allclose(*rebuilt(kind, a, found), tolerance, tolerance)
        return
    wanted = REFERENCE[kind](*arrays)
    for x, y in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        np.testing.assert_allclose(x, y, tolerance, tolerance)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("kind", ["solve", "inv", "cholesky"])
def test_matrices_without_a_decomposition(cuda: Device, kind: str, lead: tuple[int, ...]) -> None:
    a = np.broadcast_to(np.eye(3, dtype=np.float32), (*lead, 3, 3)).copy()
    a[..., 1, 1] = -1 if kind == "cholesky" else 0
    span = put(cuda, a)
    one = (span, a.shape, "float32")
    assert not cuda.linalg(kind, [one] * (1 + (kind == "solve")), [one])


def test_the_determinant_of_a_singular_matrix(cuda: Device) -> None:
    a = put(cuda, np.zeros((2, 3, 3)))
    sign, log = room(cuda, 16), room(cuda, 16)
    outputs = [(sign, (2,), "float64"), (log, (2,), "float64")]
    assert cuda.linalg("slogdet", [(a, (2, 3, 3), "float64")], outputs)
    np.testing.assert_array_equal(got(cuda, sign, (2,), np.float64), [0, 0])
    np.testing.assert_array_equal(got(cuda, log, (2,), np.float64), [-np.inf, -np.inf])


def chain(device: Device, kernels: dict[str, Any], spans: list[Span], stream: Any) -> None:
    """y = 2 x in a stream; in two others z = 2 y and w = 2 y, which the stream waits for."""
    n = spans[0].bytes // 4

    def double(source: Span, target: Span, stream: Any) -> None:
        given = address(source), address(target), np.float32(2), np.int64(n)
        device.launch(kernels["scaled"], (4, 1, 1), (256, 1, 1), 0, given, stream)

    double(spans[0], spans[1], stream)
    for target in spans[2:]:
        other = device.stream()
        device.wait(other, stream)
        double(spans[1], target, other)
        device.wait(stream, other)
    double(spans[2], spans[0], stream)


def test_streams_wait(cuda: Device, kernels: dict[str, Any]) -> None:
    x = np.arange(5000, dtype=np.float32)
    for _ in range(5):
        spans = [put(cuda, x), *(room(cuda, x.nbytes) for _ in range(3))]
        chain(cuda, kernels, spans, None)
        factors = [int(got(cuda, span, x.shape, x.dtype)[1]) for span in spans]
        assert factors == [8, 2, 4, 4]


def test_captured_work_is_done_again(cuda: Device, kernels: dict[str, Any]) -> None:
    x = np.arange(5000, dtype=np.float32)
    spans = [put(cuda, x), *(put(cuda, x) for _ in range(3))]
    stream = cuda.stream()
    cuda.wait(stream, None)
    graph = cuda.capture(lambda: chain(cuda, kernels, spans, stream), stream)
    assert got(cuda, spans[0], x.shape, x.dtype)[1] == 1  # nothing was done yet
    for count in (1, 2, 3):
        cuda.replay(graph)
        np.testing.assert_array_equal(got(cuda, spans[0], x.shape, x.dtype), x * 8.0**count)


def test_captured_products(cuda: Device) -> None:
    x = put(cuda, 2 * np.eye(4, dtype=np.float32))
    out = put(cuda, np.ones((4, 4), np.float32))
    stream = cuda.stream()
    product = Product(1, 4, 4, 4, False, False, "float32", "float32", add=True)
    cuda.gemm(product, x, x, out)
    graph = cuda.capture(lambda: cuda.gemm(product, x, x, out, stream), stream)
    cuda.replay(graph)
    np.testing.assert_array_equal(got(cuda, out, (4, 4), np.float32), 1 + 8 * np.eye(4))


def test_captured_products_side_by_side(cuda: Device) -> None:
    """Their addresses are known no sooner than they are captured."""
    eye = np.eye(4, dtype=np.float32)
    xs, outs = [put(cuda, 2 * eye), put(cuda, 3 * eye)], [put(cuda, eye), put(cuda, eye)]
    stream = cuda.stream()
    product = Product(2, 4, 4, 4, False, False, "float32", "float32", add=True)
    cuda.wait(stream, None)
    graph = cuda.capture(lambda: cuda.gemms(product, xs, xs, outs, stream), stream)
    for count in (1, 2):
        cuda.replay(graph)
        for out, square in zip(outs, (4, 9), strict=True):
            np.testing.assert_array_equal(
                got(cuda, out, (4, 4), np.float32), (1 + count * square) * eye
            )


def test_arrays_of_other_libraries(cuda: Device) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    span, shape, dtype = cuda.adopt(cuda.lend(put(cuda, x), (2, 3), "float32"))
    assert (shape, dtype) == ((2, 3), "float32")
    np.testing.assert_array_equal(got(cuda, span, shape, dtype), x)
    assert cuda.kind in ((1, 0), (2, 0))


def test_the_default_stream_of_a_context(cuda: Device) -> None:
    x, before, stream = np.arange(6, dtype=np.float32), cuda.current(), cuda.stream()
    with cuda.external(stream):
        assert cuda.current() == stream
        span = put(cuda, x)
        np.testing.assert_array_equal(got(cuda, span, (6,), np.float32), x)
    assert cuda.current() == before


def test_time_passes(cuda: Device, kernels: dict[str, Any]) -> None:
    x = np.zeros(1 << 14, np.float32)
    span = put(cuda, x)
    given = address(span), address(span), np.float32(2), np.int64(len(x))
    first = cuda.mark()
    cuda.launch(kernels["scaled"], (4, 1, 1), (256, 1, 1), 0, given)
    last = cuda.mark()
    assert 0 < cuda.elapsed(first, last) < 60
