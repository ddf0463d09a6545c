"""Arrays on a device as everything else sees them: results of compiled functions stay there."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from cuda_standin import Kernels, Standin
from function_cases import CASES, arguments
from three_ways import same

import lantern as ln
from backends.cuda import DeviceArray
from backends.cuda.memory import whole
from lantern.errors import DonatedError, IndexRangeError, NonFiniteError, StagingError
from lantern.tensor import Tensor

EMULATED = "cuda-emulated"


def placed(x: Any) -> Any:
    """A Tensor's elements on a device."""
    host, device = np.ascontiguousarray(x.value), Standin(Kernels())
    span = whole(device.empty(host.nbytes))
    device.to_device(span, host)
    return Tensor(DeviceArray(device, span, x.shape, host.dtype))


def test_eager_functions_take_arrays_of_a_device() -> None:
    """Every public function, and derivatives of those that have one."""
    here = arguments()
    there = {k: placed(x) if type(x) is Tensor and x.ndim else x for k, x in here.items()}
    assert any(type(x.value) is DeviceArray for x in there.values() if type(x) is Tensor)
    for name, case in CASES.items():
        same(case(there), case(here), 0, name)


def test_results_stay_on_the_device() -> None:
    double = ln.compile(lambda x: {"y": x + x, "n": x[0]}, backend=EMULATED)
    first = double(np.arange(3.0))
    assert {type(x.value) for x in first.values()} == {DeviceArray}
    second = double(first["y"])
    np.testing.assert_array_equal(second["y"], [0.0, 4.0, 8.0])
    assert second["n"].shape == () and float(second["n"]) == 0.0
    assert str(second["y"]) == "[0. 4. 8.]" and first["y"].tolist() == [0.0, 2.0, 4.0]
    for kept in (pickle.loads(pickle.dumps(second["y"])), copy.deepcopy(second["y"])):
        np.testing.assert_array_equal(kept, second["y"])
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(second["y"])[0] = 1.0
    native = ln.compile(lambda x: x * 0.5, backend="llvm")
    np.testing.assert_array_equal(native(second["y"]), [0.0, 2.0, 4.0])


def test_donated_memory_is_that_of_a_result() -> None:
    step = ln.compile(lambda p, g: p - g, backend=EMULATED, donate="p")
    p = step(ln.asarray(np.arange(4.0)), np.ones(4))
    where = p.value.span.address
    q = step(p, np.ones(4))
    assert q.value.span.address == where
    np.testing.assert_array_equal(q, [-2.0, -1.0, 0.0, 1.0])
    with pytest.raises(DonatedError, match="was donated, as p"):
        np.asarray(p)
    other = Tensor(q.value)
    with pytest.raises(DonatedError, match="another Tensor or array on the device"):
        step(q, np.ones(4))
    np.testing.assert_array_equal(other, q)


def test_what_is_missing_is_said() -> None:
    from backends.cuda.runtime import has_driver

    if has_driver():
        pytest.skip("there is a GPU")
    with pytest.raises(StagingError, match=r"NVIDIA driver|lantern-ad\[cuda13\]"):
        ln.compile(lambda x: x + 1.0, backend="cuda")(1.0)


def test_source_and_ir() -> None:
    f = ln.compile(lambda x: ln.sin(x) * 2.0, backend=EMULATED)
    source = f.source(ln.ShapeDtype((8,), np.float32))
    assert "__global__" in source and "float32[8]" in source and __file__ in source
    assert "sin(" in f.ir(ln.ShapeDtype((8,), np.float32))
    with pytest.raises(StagingError, match="source\\(\\) shows"):
        f.asm(ln.ShapeDtype((8,), np.float32))


def test_a_profile_has_the_time_of_each_kernel() -> None:
    f = ln.compile(lambda x: ln.sum(ln.sin(x) * 2.0) + x[0], backend=EMULATED)
    found = f.profile(np.ones(40))
    assert found.seconds > 0 and "test_cuda_arrays.py" in str(found)
    assert all(row.seconds > 0 for row in found.rows)


def test_careful_calls_give_the_same() -> None:
    f = ln.compile(lambda x: ln.sin(x) @ x, backend=EMULATED, careful=True)
    np.testing.assert_allclose(f(np.ones(4)), 4 * np.sin(1.0))


def test_derivatives_and_batches_of_compiled_functions() -> None:
    f = ln.compile(lambda x: ln.sum(ln.sin(x) * x), backend=EMULATED)
    plain = ln.compile(lambda x: ln.sum(ln.sin(x) * x), backend="llvm")
    x = ln.asarray(np.linspace(0.0, 1.0, 6).reshape(2, 3))
    for way in (
        ln.grad,
        ln.vmap,
        lambda f: ln.vmap(ln.grad(f)),
        lambda f: ln.grad(lambda x: f(x) ** 2),
    ):
        np.testing.assert_allclose(np.asarray(way(f)(x)), np.asarray(way(plain)(x)), 1e-14)


def test_failures_are_those_of_eager_code() -> None:
    def f(x: Any, i: Any) -> Any:
        return ln.log(x)[i]

    checked = ln.compile(f, backend=EMULATED, check_nans=True)
    with pytest.raises(NonFiniteError, match=r"(?s)log.*test_cuda_arrays.py"):
        checked(np.asarray([1.0, -1.0]), np.asarray(0))
    run = ln.compile(f, backend=EMULATED)
    for _ in range(3):  # step by step, and as a whole
        assert float(run(np.asarray([1.0, 2.0]), np.asarray(0))) == 0.0
        with pytest.raises(IndexRangeError, match=r"(?s)index 7 .*test_cuda_arrays.py"):
            run(np.asarray([1.0, 2.0]), np.asarray(7))


def test_random_numbers_are_those_of_every_backend() -> None:
    def draws(k: Any) -> Any:
        return ln.random.bits(k, (33,)), ln.random.uniform(k, (9,)), ln.random.permutation(k, 7)

    found = ln.compile(draws, backend=EMULATED)(ln.random.key(3))
    same(found, draws(ln.random.key(3)), 0)
