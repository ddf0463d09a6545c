"""The CUDA backend's use of CuPy, on a stand-in for it; that the real one has what is used; and
what is said where there is no GPU."""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

import lantern as ln
from backends.cuda import addresses, nvrtc
from backends.cuda.device import Buffer, DeviceError, Product, Span
from backends.cuda.limits import ARCHITECTURES, STATIC, Usage
from backends.cuda.nvrtc import Code
from backends.cuda.runtime import ROUTINES, CupyDevice, DeviceMissing
from lantern.staged import executables
from staging.linalg import KINDS

pytest.importorskip("cupy", reason="CuPy is not installed: pip install 'lantern-ad[test]'")
from tests.fake_cupy import CUBLAS, Fake


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    found.install(monkeypatch)
    return found


@pytest.fixture
def device(fake: Fake) -> CupyDevice:
    return CupyDevice()


def whole(buffer: Buffer) -> Span:
    return Span(buffer, 0, buffer.bytes)


def put(device: CupyDevice, array: np.ndarray[Any, Any]) -> Span:
    span = whole(device.empty(array.nbytes))
    device.to_device(span, np.ascontiguousarray(array))
    return span


def got(device: CupyDevice, span: Span, shape: tuple[int, ...], dtype: Any) -> Any:
    host = np.empty(shape, dtype)
    device.to_host(span, host)
    return host


# What it is.


def test_limits_are_those_of_the_device(device: CupyDevice) -> None:
    assert device.limits == ARCHITECTURES["sm_90"]._replace(processors=114)
    assert device.name == "NVIDIA Pretence"


MISSING = {
    "no driver": (
        {"driver": 0, "problem": "cudaErrorInsufficientDriver"},
        "finds no NVIDIA driver: this machine has no GPU.*cuda-emulated",
    ),
    "an old driver": (
        {"driver": 12040, "problem": "cudaErrorInsufficientDriver"},
        r"the NVIDIA driver knows CUDA 12\.4, and this CuPy is built for 13\.2: .*\[cuda12\]",
    ),
    "a broken driver": ({"problem": "cudaErrorUnknown"}, "cannot use the GPU: cudaErrorUnknown"),
    "hidden devices": ({"devices": 0}, "CUDA_VISIBLE_DEVICES"),
    "an old device": ({"capability": "75"}, r"compute capability 7\.5.* need 8\.0"),
}


@pytest.mark.parametrize("case", MISSING)
def test_says_what_is_missing(fake: Fake, case: str) -> None:
    settings, said = MISSING[case]
    vars(fake).update(settings)
    with pytest.raises(DeviceMissing, match=said):
        CupyDevice()


def test_says_that_cupy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceMissing, match=r"CuPy, which is not installed: pip install .*cuda13"):
        CupyDevice()


def test_says_that_cupy_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(version="13.6.0").install(monkeypatch)
    with pytest.raises(DeviceMissing, match=r"needs CuPy 14\.0 or newer, and finds 13\.6\.0"):
        CupyDevice()


def test_says_that_cublas_is_missing(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", None)
    with pytest.raises(DeviceMissing, match=r"CuPy finds no cuBLAS .*pip install"):
        CupyDevice()


def test_without_a_gpu_the_real_cupy_is_refused_with_a_reason() -> None:
    cupy = importlib.import_module("cupy")
    if cupy.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceMissing, match=r"backend 'cuda'|NVIDIA driver"):
        CupyDevice()


# Memory.


def test_copies(device: CupyDevice, fake: Fake) -> None:
    x = np.arange(12, dtype=np.float32)
    span = put(device, x)
    other = whole(device.empty(48))
    device.fill(other, 0)
    device.copy(other.part(16, 16), span.part(4, 16))
    np.testing.assert_array_equal(
        got(device, other, (12,), np.float32), [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]
    )
    assert [entry[0] for entry in fake.log] == ["copy", "fill", "copy", "copy", "synchronize"]


def test_copies_go_into_the_stream_that_is_meant(device: CupyDevice, fake: Fake) -> None:
    span, host, stream = whole(device.empty(8)), np.zeros(2, np.float32), device.stream()
    with device.external(77):
        device.to_device(span, host)
        device.fill(span, 1)
        device.to_device(span, host, stream)
        device.fill(span, 1, stream)
    device.fill(span, 1)
    assert [entry[1] for entry in fake.log] == [77, 77, stream.ptr, stream.ptr, 0]


def test_waits_where_cuda_reads_the_host_later(device: CupyDevice, fake: Fake) -> None:
    host = np.zeros(2, np.float32)
    fake.pinned.add(host.ctypes.data)
    device.to_device(whole(device.empty(8)), host)
    assert fake.log[-1] == ("synchronize", 0)


def test_nothing_is_copied_where_there_is_nothing(device: CupyDevice, fake: Fake) -> None:
    span = whole(device.empty(0))
    device.to_device(span, np.zeros((0, 3), np.float32))
    device.copy(span, span)
    device.fill(span, 0)
    assert fake.log == []


def test_says_who_holds_the_memory(device: CupyDevice) -> None:
    parameters = [device.empty(300_000, "parameters of step") for _ in range(2)]
    arena = device.empty(100_000, "arena of step")
    gone = device.empty(40_000, "gone")
    del gone
    gc.collect()
    with pytest.raises(MemoryError) as raised:
        device.empty(600_000, "results of step")
    lines = str(raised.value).splitlines()
    assert lines[0] == (
        "the GPU has no memory left for 600 kB (results of step): of 1.05 MB, 309 kB are free. "
        "It is held by"
    )
    assert lines[1:3] == ["  600 kB: parameters of step", "  100 kB: arena of step"]
    assert "other arrays of CuPy's" in lines[3]
    assert "donate" in lines[4]
    assert len(parameters) == 2
    assert arena.bytes == 100_000


# Kernels.


def loaded(device: CupyDevice, patch: pytest.MonkeyPatch, usage: Usage) -> Any:
    code = Code(b"\x7fELF", {"k": usage})
    patch.setattr("backends.cuda.runtime.compiled", lambda source, architecture, keep: code)
    return device.compile("text", ["k"])["k"]


def test_launches(device: CupyDevice, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = loaded(device, monkeypatch, Usage(32))
    stream = device.stream()
    given = np.uint64(1234), np.int32(5), np.float32(0.5)
    device.launch(kernel, (4, 1, 1), (256, 1, 1), 0, given, stream)
    device.launch(kernel, (4, 1, 1), (256, 1, 1), 0, given)
    assert fake.log == [
        ("load", b"\x7fELF"),
        ("k", stream.ptr, (4, 1, 1), (256, 1, 1), given, 0),
        ("k", 0, (4, 1, 1), (256, 1, 1), given, 0),
    ]
    with pytest.raises(AssertionError):
        device.launch(kernel, (4, 1, 1), (256, 1, 1), 0, (5,))  # type: ignore[arg-type]


def test_asks_for_shared_memory_once(
    device: CupyDevice, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = loaded(device, monkeypatch, Usage(32, shared=1024))
    for shared in (STATIC, 100_000, 100_000, 60_000):
        device.launch(kernel, (1, 1, 1), (32, 1, 1), shared, ())
    assert [entry for entry in fake.log if entry[0] == "attribute"] == [
        ("attribute", 7, 8, 100_000)
    ]
    with pytest.raises(DeviceError, match="233472 bytes of shared memory"):
        device.launch(kernel, (1, 1, 1), (32, 1, 1), 227 * 1024, ())


def test_failures_say_what_failed(
    device: CupyDevice, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = loaded(device, monkeypatch, Usage(32))
    fake.fault = "cudaErrorIllegalAddress"
    with pytest.raises(DeviceError, match="k: cudaErrorIllegalAddress"):
        device.launch(kernel, (1, 1, 1), (32, 1, 1), 0, ())
    with pytest.raises(DeviceError, match="launched before: cudaErrorIllegalAddress"):
        device.synchronize()
    with pytest.raises(DeviceError, match="a copy to the host"):
        device.to_host(whole(device.empty(4)), np.empty(1, np.float32))


# Products.

SHAPES = [(1, 3, 4, 5), (3, 2, 7, 3), (2, 1, 1, 1), (2, 3, 2, 0), (0, 2, 2, 2)]
FLAGS = list(itertools.product((False, True), repeat=3))


@pytest.mark.parametrize(
    ("dtype", "out"),
    [
        ("float32", "float32"), ("float64", "float64"), ("float16", "float16"),
        ("float16", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"),
    ],
)  # fmt: skip
def test_products(device: CupyDevice, dtype: str, out: str) -> None:
    rng = np.random.default_rng(3)
    narrow, result = (np.dtype(bfloat16 if d == "bfloat16" else d) for d in (dtype, out))
    for (batch, m, n, k), (tx, ty, add) in itertools.product(SHAPES, FLAGS):
        for rx, ry in ((False, False), (True, False), (False, True)):
            x = rng.standard_normal((1 if rx else batch, m, k)).astype(narrow)
            y = rng.standard_normal((1 if ry else batch, k, n)).astype(narrow)
            z = rng.standard_normal((batch, m, n)).astype(result)
            spans = [
                put(device, a)
                for a in (x.swapaxes(1, 2) if tx else x, y.swapaxes(1, 2) if ty else y, z)
            ]
            product = Product(batch, m, n, k, tx, ty, dtype, out, add, rx, ry)
            device.gemm(product, *spans)
            wide = np.float64 if dtype == "float64" else np.float32
            wanted = x.astype(wide) @ y.astype(wide) + (z.astype(wide) if add else 0)
            found = got(device, spans[2], z.shape, result).astype(wide)
            tolerance = 1e-5 if out.startswith("float32") or wide is np.float64 else 2e-2
            np.testing.assert_allclose(
                found,
                wanted.astype(result).astype(wide),
                tolerance,
                tolerance,
                err_msg=str(product),
            )


def test_products_run_in_their_stream_with_its_own_handle(device: CupyDevice, fake: Fake) -> None:
    product = Product(1, 2, 2, 2, False, False, "float32", "float32")
    spans = [put(device, np.ones((2, 2), np.float32)) for _ in range(3)]
    fake.log.clear()
    first, second = device.stream(), device.stream()
    for stream in (first, second, first, None):
        device.gemm(product, *spans, stream)
    done = [entry for entry in fake.log if entry[0] == "gemm"]
    assert [entry[1] for entry in done] == [first.ptr, second.ptr, first.ptr, 0]
    assert done[0][2] == done[2][2]
    assert len({entry[2] for entry in done}) == 3
    # Sums of float16 in float32, and no TF32: CUBLAS_DEFAULT_MATH with this one bit.
    assert {entry[2] for entry in fake.log if entry[0] == "mode"} == {16}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_side_by_side(device: CupyDevice, fake: Fake, dtype: str) -> None:
    rng = np.random.default_rng(5)
    for tx, ty, add in FLAGS:
        x, y, z = (rng.standard_normal(s).astype(dtype) for s in ((3, 4, 5), (3, 5, 6), (3, 4, 6)))
        given = (x.swapaxes(1, 2) if tx else x, y.swapaxes(1, 2) if ty else y, z)
        xs, ys, outs = ([put(device, np.ascontiguousarray(one)) for one in some] for some in given)
        product = Product(3, 4, 6, 5, tx, ty, dtype, dtype, add)
        device.gemms(product, xs, ys, outs)
        for i, out in enumerate(outs):
            wanted = x[i] @ y[i] + (z[i] if add else 0)
            np.testing.assert_allclose(
                got(device, out, (4, 6), np.dtype(dtype)), wanted, 1e-5, 1e-5
            )


def test_addresses_are_put_on_the_device_once_and_aside(device: CupyDevice, fake: Fake) -> None:
    x = put(device, np.ones((2, 2), np.float32))
    outs = [put(device, np.ones((2, 2), np.float32)) for _ in range(3)]
    product = Product(2, 2, 2, 2, False, False, "float32", "float32")
    fake.log.clear()
    stream = device.stream()
    for _ in range(2):
        device.gemms(product, [x, x], [x, x], outs[:2], stream)
    names = [entry[0] for entry in fake.log if entry[0] in ("copy", "synchronize", "gemm")]
    assert names == ["copy", "synchronize", "gemm", "gemm", "gemm", "gemm"]
    ((_, aside, _),) = (entry for entry in fake.log if entry[0] == "copy")
    assert aside not in (0, stream.ptr)
    device.gemms(product, [x, x], [x, x], outs[1:], stream)
    assert len(device.addresses.places) == 2


def test_a_graph_keeps_its_addresses(device: CupyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "SLAB", 48)  # the addresses of two products
    monkeypatch.setattr(addresses, "SLABS", 1)
    x = put(device, np.ones((2, 2), np.float32))
    outs = [put(device, np.zeros((2, 2), np.float32)) for _ in range(4)]
    product = Product(2, 2, 2, 2, False, False, "float32", "float32")
    stream = device.stream()

    def work() -> None:
        for some in (outs[:2], outs[1:3]):  # more than are kept: nothing is forgotten meanwhile
            device.gemms(product, [x, x], [x, x], some, stream)

    graph = device.capture(work, stream)
    kept = [*device.addresses.slabs]
    assert len(kept) == 2
    device.gemms(product, [x, x], [x, x], outs[2:])
    assert len(device.addresses.slabs) == len(device.addresses.places) == 1 and graph.slabs == kept
    device.gemms(product._replace(batch=4), [x] * 4, [x] * 4, outs)  # more than fit into one
    for out in outs:
        np.testing.assert_array_equal(got(device, out, (2, 2), np.float32), 2)


# Decompositions: NumPy stands for CuPy, which follows it.


def test_every_decomposition_has_a_routine() -> None:
    assert set(ROUTINES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_decompositions(device: CupyDevice, fake: Fake, kind: str) -> None:
    from staging.ir import Type
    from staging.linalg import ROUTINES as REFERENCE
    from staging.linalg import types_of

    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 4, 4)).astype(np.float32)
    a = a @ a.swapaxes(1, 2) + np.eye(4, dtype=np.float32)
    arrays = [a, rng.standard_normal((2, 4, 3)).astype(np.float32)][: 1 + (kind == "solve")]
    types = types_of(kind, tuple(Type("float32", x.shape) for x in arrays))
    inputs = [(put(device, x), x.shape, "float32") for x in arrays]
    outputs = [(whole(device.empty(t.bytes)), t.shape, "float32") for t in types]
    stream = device.stream()
    assert device.linalg(kind, inputs, outputs, stream)
    wanted = REFERENCE[kind](*arrays)
    for (span, shape, _), x in zip(
        outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True
    ):
        np.testing.assert_array_equal(got(device, span, shape, np.float32), x)


def test_a_singular_matrix_is_reported(device: CupyDevice) -> None:
    a = put(device, np.zeros((2, 2), np.float32)), (2, 2), "float32"
    assert not device.linalg("inv", [a], [a])
    assert not device.linalg("cholesky", [a], [a])


# Streams, events, graphs.


def test_streams_wait_for_each_other(device: CupyDevice, fake: Fake) -> None:
    first, second = device.stream(), device.stream()
    device.wait(second, first)
    device.wait(None, second)
    assert fake.log == [("wait", second.ptr, first.ptr), ("wait", 0, second.ptr)]


class Torch:
    cuda_stream = 55


@pytest.mark.parametrize("given", [55, np.int64(55), Torch()])
def test_streams_of_others(device: CupyDevice, fake: Fake, given: Any) -> None:
    with device.external(given):
        device.fill(whole(device.empty(4)), 0)
    with device.external(device.external(given)):
        device.fill(whole(device.empty(4)), 0)
    assert fake.log == [("fill", 55), ("fill", 55)]
    assert len(fake.current) == 1


def test_times(device: CupyDevice, fake: Fake) -> None:
    first, last = device.mark(), device.mark()
    assert device.elapsed(first, last) == pytest.approx(5e-3)
    assert fake.log == [("event", 0)]


def test_captures(device: CupyDevice, fake: Fake) -> None:
    stream, span = device.stream(), whole(device.empty(4))
    graph = device.capture(lambda: device.fill(span, 0), stream)
    device.replay(graph)
    assert [entry[:2] for entry in fake.log if entry[0] not in ("create", "mode")] == [
        ("begin", stream.ptr), ("fill", stream.ptr), ("end", stream.ptr), ("graph", 0),
    ]  # fmt: skip


def test_a_capture_that_fails_is_ended(device: CupyDevice, fake: Fake) -> None:
    def work() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        device.capture(work, device.stream())
    assert fake.log[-1][0] == "end"
    assert len(fake.current) == 1


# Arrays of others.


def test_shares_memory(device: CupyDevice) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    span, shape, dtype = device.adopt(x)
    assert (shape, dtype) == ((2, 3), "float32")
    assert span.address == x.ctypes.data
    device.fill(span.part(0, 4), 0)
    assert x[0, 0] == 0
    assert span.buffer.lent
    view = device.lend(span.part(12, 12), (3,), "float32")
    view[...] = 9
    np.testing.assert_array_equal(x, [[0, 1, 2], [9, 9, 9]])
    assert not np.shares_memory(x, device.lend(device.adopt(x.T)[0], (3, 2), "float32"))


class OnGpu:
    """An array of another library, which says that it is on a GPU."""

    def __init__(self, array: np.ndarray[Any, Any], interface: bool) -> None:
        self.array = array
        if interface:
            self.__cuda_array_interface__ = array.__array_interface__
            self.__array__ = array.__array__
        else:
            self.__dlpack__ = array.__dlpack__
            self.__dlpack_device__ = lambda: (2, 0)


@pytest.fixture
def pretended(fake: Fake) -> Iterator[Fake]:
    """Compiled functions find the stand-in's GPU."""
    executables.gpu.cache_clear()
    yield fake
    executables.gpu.cache_clear()


def test_tensors_share_the_memory_of_other_libraries(pretended: Fake) -> None:
    x = np.arange(4, dtype=np.float32)
    for given in (OnGpu(x, False), OnGpu(x, True)):
        tensor = ln.cuda.asarray(given)
        assert tensor.value.span.address == x.ctypes.data
        assert tensor.value.shared
        assert tensor.__dlpack_device__() == (2, 0)
    assert ln.from_dlpack(OnGpu(x, False)).value.span.address == x.ctypes.data
    assert not hasattr(ln.asarray(x), "__cuda_array_interface__")


def test_other_libraries_share_the_memory_of_tensors(pretended: Fake) -> None:
    tensor = ln.cuda.asarray(np.arange(4, dtype=np.float32))
    assert not tensor.value.shared
    shared = np.from_dlpack(tensor.value.lent())
    assert shared.ctypes.data == tensor.value.span.address
    assert tensor.value.shared  # so that it is not given away
    assert ln.cuda.asarray(tensor).value is tensor.value


def test_a_function_is_compiled_for_the_gpu_once(
    pretended: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the way but the kernels themselves, which the stand-in only writes down."""
    try:
        nvrtc.find()
    except nvrtc.CompilerMissing as missing:
        pytest.skip(str(missing))

    def f(x: Any, w: Any) -> Any:
        return ln.tanh(x @ w)

    x, w = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    first = ln.compile(f, backend="cuda", cache=tmp_path)(x, w)
    assert first.shape == (3, 5)
    launches = [entry for entry in pretended.log if entry[0] not in ("copy", "mode", "create")]
    assert launches[0] == ("load", b"\x7fELF")
    assert len(launches) > 1
    kept = [path for path in tmp_path.iterdir() if b"\x7fELF" in path.read_bytes()]
    assert len(kept) == 1
    monkeypatch.setattr(type(nvrtc.compiler()), "compile", None)  # nothing is compiled now
    pretended.log.clear()
    ln.compile(f, backend="cuda", cache=tmp_path)(x, w)
    assert pretended.log[0] == ("load", b"\x7fELF")


def test_the_stream_of_a_context_is_that_of_this_thread(pretended: Fake) -> None:
    with ln.cuda.stream(55):
        ln.cuda.asarray(np.arange(4, dtype=np.float32))
        with ln.cuda.stream(Torch()):
            assert len(pretended.current) == 3
    assert [entry[:2] for entry in pretended.log] == [("copy", 55)]
    assert len(pretended.current) == 1
    assert ln.cuda.is_available()
    ln.cuda.synchronize()
    pretended.fault = "cudaErrorLaunchFailure"
    with pytest.raises(DeviceError, match="cudaErrorLaunchFailure"):
        ln.cuda.synchronize()


# That the real CuPy has what is used: the stand-in has compared every call with it already.


def test_cublas_is_as_the_stand_in_has_it() -> None:
    try:
        cublas = importlib.import_module("cupy_backends.cuda.libs.cublas")
    except ImportError as problem:
        pytest.skip(f"CuPy finds no cuBLAS: {problem}")
    for name, value in CUBLAS.items():
        found = getattr(cublas, name)
        assert (found if isinstance(value, int) else found.__doc__) == value, name


@pytest.mark.parametrize(
    "path",
    [
        "cuda.Stream.begin_capture", "cuda.Stream.end_capture", "cuda.Stream.wait_event",
        "cuda.Stream.synchronize", "cuda.Stream.__enter__", "cuda.Event.record",
        "cuda.Event.synchronize", "cuda.Graph.launch", "cuda.MemoryPointer.__add__",
        "cuda.MemoryPointer.ptr", "cuda.Device.compute_capability", "cuda.Device.id",
        "cuda.function.Function.__call__", "cuda.function.Function.ptr", "from_dlpack", "asarray",
        "ascontiguousarray", "ndarray", "dtype", "linalg.svd", "linalg.slogdet", "linalg.eigvalsh",
    ],
)  # fmt: skip
def test_cupy_has(path: str) -> None:
    found: Any = importlib.import_module("cupy")
    for part in path.split("."):
        found = getattr(found, part)


def test_the_stand_in_refuses_what_cupy_refuses(fake: Fake) -> None:
    runtime = fake.cuda.runtime
    x = np.zeros(4, np.uint8)
    with pytest.raises(AssertionError):
        runtime.memsetAsync(x.ctypes.data, 0, 4)
    with pytest.raises(AssertionError):
        fake.cuda.Stream(nonblocking=True)
    runtime.memsetAsync(x.ctypes.data, 1, 4, 0)
    assert ctypes.string_at(x.ctypes.data, 4) == b"\1" * 4
