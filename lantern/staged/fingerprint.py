"""What a function reads besides its arguments: its program is right only while that stays.

What the code names is followed from object to object: variables around functions and globals, their
defaults, the functions that these call, and of objects, classes and modules the attributes whose
names occur in code that is met. Code of the standard library and of installed packages is taken as
it is; what such a function closes over is followed.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain
from operator import attrgetter, call, is_
from pathlib import PurePath
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from lantern.regions import Block
from lantern.symbol import is_known
from lantern.syntax.libraries import is_library, package_of
from lantern.tensor import Tensor

_PLAIN = (bool, int, str, bytes, type(None), type(Ellipsis))
_ATOMS = (float, complex, np.generic, np.dtype, range, slice, PurePath)
_WRAPPERS = (staticmethod, classmethod)


class Read(NamedTuple):
    """Something that was read.

    Attributes:
        path: how it is reached, as an expression of the function that reads it.
        reader: that function's name.
        value: hashable; equal where a program may be used again.
        shown: the value, for people.
    """

    path: str
    reader: str
    value: Hashable
    shown: str


class Fingerprint:
    """A hashable key of the code and the captured values of functions.

    Plain values count by value, containers by their elements, functions by their code and what they
    read in turn, NumPy arrays by their contents. Tensors, which are immutable, and everything else
    count by identity, which ``alive`` keeps from being used again.

    Attributes:
        reads: all that was read, in order.
        key: the values of these.
    """

    def __init__(self, *roots: Any) -> None:
        names: frozenset[str] = frozenset()
        digests: dict[int, bytes] = {}
        while True:  # until no code adds a name of an attribute that may have been passed by
            walk = _Walk(names, roots, digests)
            if walk.names == names:
                break
            names = frozenset(walk.names)
        self.reads, self.alive = walk.reads, walk.alive
        self.key: Hashable = tuple(read.value for read in walk.reads)
        # As `unchanged` looks at it, which every call does.
        self.readers = [read for read, _ in walk.groups]
        self.seen = [*chain.from_iterable(seen for _, seen in walk.groups)]
        self.containers, self.sizes = [x for x, _ in walk.sizes], [n for _, n in walk.sizes]
        self.contents = walk.contents

    def arrays(self) -> dict[int, Any]:
        """The arrays that were met, also those of Tensors, by their id."""
        found = (x.value if type(x) is Tensor and is_known(x) else x for x in self.alive)
        return {id(x): x for x in found if isinstance(x, (np.ndarray, np.generic))}

    def tensors(self) -> list[tuple[Read, Tensor]]:
        """The Tensors that were met, and where."""
        found = {id(x): x for x in self.alive if type(x) is Tensor}
        return [
            (read, found[read.value[1]])
            for read in self.reads
            if type(read.value) is tuple and read.value[0] == "tensor"
        ]

    def unchanged(self) -> bool:
        """Whether all that was read is the same object as then: quick, and false too often."""
        try:
            return (
                [*map(len, self.containers)] == self.sizes
                and all(map(is_, chain.from_iterable(map(call, self.readers)), self.seen))
                and all(digest(x) == seen for x, seen in self.contents)
            )
        except ValueError:  # a variable that holds nothing any more
            return False


Group = tuple[Callable[[], Iterable[Any]], list[Any]]
_cell_contents = attrgetter("cell_contents")
_of_function = attrgetter("__code__", "__defaults__", "__kwdefaults__")


class _Walk:
    """One walk, with the names of attributes that code is known to read."""

    def __init__(
        self, known: frozenset[str], roots: tuple[Any, ...], digests: dict[int, bytes]
    ) -> None:
        self.known, self.names, self.digests = known, set(known), digests
        self.reads: list[Read] = []
        self.alive: list[Any] = []
        self.met: dict[int, int] = {}
        self.groups: list[Group] = []
        self.sizes: list[tuple[Any, int]] = []
        self.contents: list[tuple[Any, bytes]] = []
        self.package = package_of(roots[0])
        for i, root in enumerate(roots):
            self.visit("" if i == 0 else f"static value {i}", "", root)

    def note(self, path: str, reader: str, value: Hashable, shown: str) -> None:
        self.reads.append(Read(path, reader, value, shown))

    def visit(self, path: str, reader: str, x: Any) -> None:
        kind = type(x)
        if kind in _PLAIN or (isinstance(x, _PLAIN) and not isinstance(x, enum.Enum)):
            self.note(path, reader, (kind, x), repr(x))
        elif isinstance(x, _ATOMS):
            self.note(path, reader, (kind, repr(x)), repr(x))
        elif id(x) in self.met:
            self.note(path, reader, ("met", self.met[id(x)]), "what stands elsewhere too")
        else:
            self.met[id(x)] = len(self.met)
            self.alive.append(x)
            self.enter(path, reader, x)

    def enter(self, path: str, reader: str, x: Any) -> None:
        """Visit what something that has parts consists of."""
        if isinstance(x, FunctionType):
            self.function(path, reader, x)
        elif isinstance(x, MethodType):
            self.visit(path, reader, x.__func__)
            self.visit(f"{path}.__self__", reader, x.__self__)
        elif isinstance(x, Tensor):
            self.note(path, reader, ("tensor", id(x)), f"a Tensor {x.dtype}{list(x.shape)}")
        elif isinstance(x, Block):  # which does not change
            self.note(path, reader, id(x), "another recorded block")
        elif isinstance(x, (np.ndarray, bytearray, memoryview)):
            if id(x) not in self.digests:
                self.digests[id(x)] = digest(x)
            seen = self.digests[id(x)]
            self.contents.append((x, seen))
            array = isinstance(x, np.ndarray)
            shown = f"an array {x.dtype}{list(x.shape)}" if array else "bytes"
            self.note(path, reader, seen, f"{shown} of certain elements")
        elif isinstance(x, (list, tuple, deque, set, frozenset)):
            self.note(path, reader, (type(x), len(x)), f"a {type(x).__name__} of {len(x)}")
            self.sizes.append((x, len(x)))
            self.each(path, reader, x, range(len(x)), functools.partial(iter, x), list(x))
            self.attributes(path, reader, x)
        elif isinstance(x, (dict, MappingProxyType)):
            keys = list(x)
            self.note(path, reader, (type(x), len(x)), f"a {type(x).__name__} of {len(x)}")
            self.sizes.append((x, len(x)))
            self.groups.append((functools.partial(iter, x), keys))
            for key in keys:
                self.visit(f"a key of {path}", reader, key)
            self.each(path, reader, x, keys, x.values, list(x.values()))
            self.attributes(path, reader, x)
        elif isinstance(x, functools.partial):
            for name in ("func", "args", "keywords"):
                self.visit(f"{path}.{name}", reader, getattr(x, name))
        elif isinstance(x, _WRAPPERS):
            self.visit(path, reader, x.__func__)
        elif isinstance(x, property):
            for part in (x.fget, x.fset):
                self.visit(path, reader, part)
        elif isinstance(x, ModuleType):
            self.note(path, reader, id(x), "another module")
            if not self.library(x.__name__):
                self.named(path, reader, vars(x), self.known & vars(x).keys())
        elif isinstance(x, type):
            self.note(path, reader, id(x), "another class")
            self.of_class(path, reader, x)
        else:
            self.note(path, reader, id(x), f"another {type(x).__name__}")
            self.attributes(path, reader, x)

    def each(
        self, path: str, reader: str, x: Any, keys: Iterable[Any],
        read: Callable[[], Iterable[Any]], values: list[Any],
    ) -> None:  # fmt: skip
        """Visit the elements of a container."""
        self.groups.append((read, values))
        for key, value in zip(keys, values, strict=True):
            self.visit(f"{path}[{key!r}]", reader, value)

    def function(self, path: str, reader: str, f: FunctionType) -> None:
        """The code of a function, its defaults, its closure, and the globals that it reads."""
        code, name = f.__code__, f.__name__
        self.note(path or name, reader, ("code", id(code)), f"another function {name}")
        self.alive.append(code)
        self.groups.append((functools.partial(_of_function, f), [*_of_function(f)]))
        self.visit(f"defaults of {name}", name, f.__defaults__)
        self.visit(f"defaults of {name}", name, f.__kwdefaults__)
        if cells := f.__closure__:
            values = [_held(cell) for cell in cells]
            self.groups.append((functools.partial(map, _cell_contents, cells), values))
            for variable, value in zip(code.co_freevars, values, strict=True):
                self.visit(variable, name, value)
        if vars(f):
            self.named(
                path or name, reader, vars(f), (self.known | {"__wrapped__"}) & vars(f).keys()
            )
        if not self.library(f.__globals__.get("__name__")):
            read, attributes = names_in(code)
            self.names |= attributes
            self.named("", name, f.__globals__, read & f.__globals__.keys())

    def named(self, path: str, reader: str, space: Any, names: Iterable[str]) -> None:
        """Visit what stands under some names, of a module, a class or an object."""
        names = sorted(names)
        if not names:
            return
        values = [space[name] for name in names]
        self.groups.append((functools.partial(map, space.get, names), values))
        for name, value in zip(names, values, strict=True):
            self.visit(f"{path}.{name}" if path else name, reader, value)

    def attributes(self, path: str, reader: str, x: Any) -> None:
        """The attributes of an object that code reads, and its class."""
        known: Any = self.known | {"__wrapped__"}
        if dataclasses.is_dataclass(x):
            known |= {field.name for field in dataclasses.fields(x)}
        space = getattr(x, "__dict__", None)
        if isinstance(space, dict):
            self.sizes.append((space, len(space)))
            self.named(path, reader, space, known & space.keys())
        slots = [n for n in _slots(type(x)) if n in known]
        if slots:
            read = functools.partial(map, functools.partial(_slot, x), slots)
            values = list(read())
            self.groups.append((read, values))
            for name, value in zip(slots, values, strict=True):
                self.visit(f"{path}.{name}", reader, value)
        if not self.library(type(x).__module__):
            self.visit(type(x).__name__, reader, type(x))

    def of_class(self, path: str, reader: str, cls: type) -> None:
        """What code names of a class, and the methods that Python calls by itself."""
        for base in cls.__mro__:
            if self.library(base.__module__):
                continue
            space = vars(base)
            own = {n for n, v in space.items() if n[:2] == "__" and isinstance(v, FunctionType)}
            self.named(path, reader, space, (self.known & space.keys()) | own)

    def library(self, module: str | None) -> bool:
        """Whether a module is taken as it is."""
        package = (module or "").partition(".")[0]
        return package != self.package and is_library(package)


def _held(cell: Any) -> Any:
    """What a variable of a closure holds; None before something has been put there."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _slots(cls: type) -> list[str]:
    """The names of the slots of a class that is not built in."""
    found: Iterator[Any] = (vars(base).get("__slots__", ()) for base in cls.__mro__)
    return list(chain.from_iterable([s] if isinstance(s, str) else s for s in found))


def _slot(x: Any, name: str) -> Any:
    return getattr(x, name, None)


_LOAD_GLOBAL, _LOAD_NAME = dis.opmap["LOAD_GLOBAL"], dis.opmap["LOAD_NAME"]
_EXTENDED_ARG = dis.opmap["EXTENDED_ARG"]


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The globals that a code object, or one nested in it, reads, and the names of attributes,
    those in strings, for `getattr`, among them.

    Example:
        >>> def f(x):
        ...     return x.rate * len(getattr(x, "parts"))
        >>> sorted(names_in(f.__code__)[0]), sorted(names_in(f.__code__)[1])
        (['getattr', 'len'], ['getattr', 'len', 'parts', 'rate'])
    """
    read: set[str] = set()
    high = 0
    for op, low in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        argument = high | low
        high = argument << 8 if op == _EXTENDED_ARG else 0
        if op == _LOAD_GLOBAL:
            read.add(code.co_names[argument >> 1])
        elif op == _LOAD_NAME:
            read.add(code.co_names[argument])
    attributes = set(code.co_names)  # a name may be both
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = names_in(constant)
            read |= inner[0]
            attributes |= inner[1]
        elif isinstance(constant, str) and constant.isidentifier():
            attributes.add(constant)
    return frozenset(read), frozenset(attributes)


def digest(x: Any) -> bytes:
    """The contents of an array, and its type."""
    if isinstance(x, np.ndarray):
        kind = f"{x.dtype}{x.shape}".encode()
        data = repr(x.tolist()).encode() if x.dtype.hasobject else np.ascontiguousarray(x).tobytes()
        return hashlib.blake2b(data, digest_size=16, key=kind[:64]).digest()
    return hashlib.blake2b(bytes(x), digest_size=16).digest()
