"""`Tensor`: an immutable array, or an array on its way through a transformation.

A free Tensor holds a NumPy array (a NumPy scalar where it has no axes: arithmetic on those is ten
times as fast). A Tensor of a prompt holds its value *one level down*, the prompt, and the prompt's
``mark`` for it: the slot of its adjoint in reverse mode, its tangent in forward mode.

Operators and methods are attached from one table, `lantern.methods.Methods`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.errors import (
    ArgumentTypeError,
    DerivativeLostWarning,
    DTypeError,
    ImmutableError,
    StagingError,
    user_line,
)
from lantern.symbol import Symbol

if TYPE_CHECKING:
    from lantern.control import Prompt
    from lantern.methods import Methods
else:
    Methods = object


class Tensor(Methods):
    """An immutable n-dimensional array. Make one with `lantern.asarray`."""

    __slots__ = ("__weakref__", "dtype", "mark", "prompt", "value")
    __array_priority__ = 1000  # NumPy's binary operators leave the work to a Tensor's own
    __hash__ = None  # type: ignore[assignment]  # == compares elements, as in NumPy

    value: Any
    prompt: Prompt | None
    mark: Any
    dtype: np.dtype[Any]

    def __init__(self, value: Any, prompt: Prompt | None = None, mark: Any = None) -> None:
        self.value, self.prompt, self.mark = value, prompt, mark
        self.dtype = value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.value.shape if self.prompt is None else self.prompt.shape_of(self.value)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def device(self) -> str:
        """Where the elements are; always ``"cpu"`` in eager mode."""
        return "cpu"

    def to_device(self, device: str, /, *, stream: None = None) -> Tensor:
        """The same Tensor: the only eager device is ``"cpu"``.

        Raises:
            ValueError: another device, or a stream.
        """
        if device != "cpu" or stream is not None:
            raise ValueError(f"to_device({device!r}): eager tensors live on 'cpu', without streams")
        return self

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """The module `lantern`, which follows the Python array API standard."""
        import lantern

        supported = ("2021.12", "2022.12", "2023.12", lantern.__array_api_version__)
        if api_version is not None and api_version not in supported:
            raise ValueError(
                f"array API version {api_version} was asked for; lantern follows {supported[-1]} "
                "and the versions before it"
            )
        return lantern

    # Reading values out.

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.prompt is not None:
            raise DTypeError(
                "a Tensor inside grad, jvp or vmap cannot become a NumPy array: its derivative "
                "would be lost. Use lantern's functions on it, ln.asarray(a)[i] to index an array "
                "a by it, or ln.stop_gradient first."
            )
        array = np.array(concrete(self, "a NumPy array"), dtype=dtype, copy=copy)
        if copy is not True and array.flags.writeable:
            array = array.view()
            array.flags.writeable = False
        return array

    def item(self) -> bool | int | float:
        """The only element, as a Python number; a constant to derivatives.

        Raises:
            ValueError: there is not exactly one element.
        """
        value = concrete(self, "item()")
        if value.size != 1:
            raise ValueError(
                f"item() of a Tensor of shape {self.shape}: it has {value.size} elements, not one"
            )
        return value.item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        return concrete(self, "tolist()").tolist()

    def __bool__(self) -> bool:
        return bool(self._scalar("bool"))

    def __int__(self) -> int:
        return int(self._scalar("int"))

    def __float__(self) -> float:
        value = self._scalar("float")
        if self.prompt is not None:  # `math.sin(x)` and `array[0] = x` end up here too
            warnings.warn(
                "float() of a Tensor that is being differentiated: the number is a constant to its "
                "derivative. If that is meant, x.item() says so without a warning"
                f"\n  at {user_line()}",
                DerivativeLostWarning,
                stacklevel=2,
            )
        return float(value)

    def __complex__(self) -> complex:
        return complex(self._scalar("complex"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only integer Tensors can be used as an index, not {self.dtype}")
        return int(self._scalar("index"))

    def _scalar(self, what: str) -> Any:
        value = concrete(self, f"{what}()")
        if value.ndim:
            raise ArgumentTypeError(
                f"{what}() of a Tensor of shape {self.shape}: only Tensors without axes convert to "
                "Python numbers; reduce it first, for example with ln.any, ln.all or ln.sum"
            )
        return value[()]

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a Tensor without axes")
        return self.shape[0]

    def __setitem__(self, index: Any, value: Any) -> None:
        raise ImmutableError(
            "a Tensor is immutable; `x = x.at[index].set(value)` gives a changed copy"
        )

    def __delitem__(self, index: Any) -> None:
        raise ImmutableError("a Tensor is immutable; nothing can be deleted from it")

    def __copy__(self) -> Tensor:
        return self

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self

    def __reduce__(self) -> Any:
        if self.prompt is not None or type(self.value) is Symbol:
            raise ArgumentTypeError(
                f"{self!r} cannot be pickled: it belongs to a transformation that is going on. "
                "Return it from the function, or ln.stop_gradient it, and pickle the result."
            )
        return Tensor, (self.value,)

    def __repr__(self) -> str:
        if type(self.value) is Symbol:
            return f"Tensor({self.value})"
        if self.prompt is None:
            text = np.array2string(
                np.asarray(self.value), separator=", ", prefix="Tensor(", threshold=200
            )
            return f"Tensor({text}, dtype={self.dtype})"
        return f"Tensor({self.dtype}{list(self.shape)} in {self.prompt}: {self.value!r})"

    def __str__(self) -> str:
        value = self
        while type(value) is Tensor:
            value = value.value
        if type(value) is Symbol:
            raise StagingError(
                "printing, or writing to a file, needs a value that is not known while compiling; "
                'ln.debug.print("{}", x) prints whenever the program runs, repr(x) gives the type'
            )
        return str(np.asarray(self.value)) if self.prompt is None else repr(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)


def concrete(x: Any, what: str) -> Any:
    """The NumPy array at the bottom of ``x``, through grad and jvp; raises inside vmap."""
    while type(x) is Tensor:
        x = x.value if x.prompt is None else x.prompt.peek(x, what)
    return x.refuse(what) if type(x) is Symbol else x
