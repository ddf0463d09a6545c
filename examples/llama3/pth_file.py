"""Tensors in files that `torch.save` wrote: a zip archive of raw storages, and a pickle.

A pickle is a program for a machine with a stack, which may call any function of Python. Here it is
never given to that machine: `pickletools` takes it apart, and the few instructions that a
dictionary of tensors needs are carried out by `Machine`, where the only things that can be called
are those in `CALLS`. What they give is a description: which storage, from where, in which shape.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from examples.llama3.files import LARGEST, Problem, mapped
from examples.llama3.stored import MOST_DIMENSIONS, Plain

PICKLE, STORAGES, ORDER = "/data.pkl", "/data/", "/byteorder"
# A file in an archive: 30 bytes, of which the last four are the lengths of the name and of what
# else precedes the content.
HEAD, LENGTHS = 30, 26
KINDS = {
    "torch DoubleStorage": np.dtype("<f8"), "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"), "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
# A table of tokens may be saved once for its two uses; nothing else is used twice.
USES = 2


class Storage(NamedTuple):
    """Numbers side by side, which tensors are views of."""

    kind: np.dtype[Any]
    key: str
    numbers: int


class View(NamedTuple):
    """A tensor: a part of a storage, in a shape."""

    storage: Storage
    start: int
    shape: tuple[int, ...]


def read(path: Path) -> dict[str, Plain]:
    """The tensors of a file by name; their numbers are not read yet.

    Raises:
        Problem: it cannot be read, is truncated or damaged, or holds anything but tensors.
    """
    data = mapped(path)
    files = archived(path, data)
    pickles = [name for name in files if name.endswith(PICKLE)]
    if len(pickles) != 1:
        raise Problem(f"{path} is no file of torch: it has {len(pickles)} files *{PICKLE}")
    folder = pickles[0].removesuffix(PICKLE)
    if bytes(files.get(folder + ORDER, b"little")) != b"little":
        raise Problem(f"{path} was written by a machine that has bytes in another order")
    found: dict[str, Plain] = {}
    for name, view in views(path, bytes(files[pickles[0]])).items():
        numbers = files.get(folder + STORAGES + view.storage.key)
        size = view.storage.kind.itemsize
        begin, end = view.start * size, (view.start + math.prod(view.shape)) * size
        if numbers is None or not end <= view.storage.numbers * size <= len(numbers):
            raise Problem(
                f"{path} is damaged: the tensor {name:.60} of shape {view.shape} is no part of its "
                f"storage {view.storage.key:.20}"
            )
        found[name] = Plain(path, name, view.storage.kind, view.shape, numbers[begin:end])
    total = sum(len(tensor.data) for tensor in found.values())
    if total > USES * len(data):
        raise Problem(f"{path} is damaged: its {len(data):,} bytes make tensors of {total:,}")
    return found


def archived(path: Path, data: mmap.mmap) -> dict[str, memoryview]:
    """The content of each file in an archive that is not compressed.

    Raises:
        Problem: it is no archive, is damaged, or compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as problem:
        raise Problem(
            f"{path} is truncated, or no archive as torch writes since version 1.6: {problem}"
        ) from None
    found: dict[str, memoryview] = {}
    for entry in entries:
        at = entry.header_offset
        if entry.compress_type != zipfile.ZIP_STORED or not 0 <= at <= len(data) - HEAD:
            raise Problem(f"{path} is damaged: {entry.filename:.60} in it is compressed or beyond")
        at += HEAD + sum(struct.unpack_from("<HH", data, at + LENGTHS))
        if entry.file_size > len(data) - at:
            raise Problem(f"{path} is truncated: {entry.filename:.60} in it would end beyond it")
        found[entry.filename] = memoryview(data)[at : at + entry.file_size]
    return found


# The pickle ---------------------------------------------------------------------------------------


def views(path: Path, program: bytes) -> dict[str, View]:
    """What a pickle says of the tensors.

    Raises:
        Problem: it is damaged, asks for a function that no tensor needs, or makes anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the names of functions
            found = Machine().run(program)
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from None
    except (ValueError, TypeError, LookupError, AttributeError) as problem:
        raise Problem(f"{path} is damaged: its pickle: {problem}"[:300]) from None
    if type(found) is not dict:
        raise Problem(f"{path} holds {type(found).__name__}, not a dictionary of tensors")
    for name, value in found.items():
        if type(value) is not View:
            raise Problem(f"{path}: {name:.60} in it is {type(value).__name__}, not a tensor")
    return found


class Machine:
    """Carries out the instructions of a pickle that only describe tensors.

    Attributes:
        stack: values.
        marks: where in it a tuple, or the items of a dictionary, begin.
        memo: values that are used again.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """What is on the stack in the end.

        Raises:
            Problem: an instruction or a function is not known here.
            ValueError, TypeError, LookupError, AttributeError: the program is damaged.
        """
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name not in INSTRUCTIONS:
                raise Problem(f"its pickle has {opcode.name}, which no dictionary of tensors needs")
            INSTRUCTIONS[opcode.name](self, argument)
        return self.stack.pop()

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def top(self, count: int) -> tuple[Any, ...]:
        """Take so many values off the stack."""
        if count > len(self.stack):
            raise ValueError("it takes more off its stack than there is")
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return values

    def marked(self) -> tuple[Any, ...]:
        """Take the values above the last mark off the stack."""
        return self.top(max(0, len(self.stack) - self.marks.pop()))

    def put(self, place: Any) -> None:
        """Remember the value on top of the stack."""
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def items(self, pairs: tuple[Any, ...]) -> None:
        """Put names and values into the dictionary on top of the stack."""
        target = self.stack[-1]
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(name) is not str or type(target) is not dict:
                raise TypeError(f"{type(name).__name__} is no name in a {type(target).__name__}")
            target[name] = value

    def name(self, name: str) -> None:
        """Put the name of a function or a kind of storage on the stack."""
        if name not in CALLS and name not in KINDS:
            raise Problem(
                f"its pickle asks for {name.replace(' ', '.'):.60}; nothing is run here, and only "
                "tensors of floats in 16, 32 or 64 bits are read"
            )
        self.push(Name(name))

    def call(self) -> None:
        """Replace a function and its arguments by what it gives."""
        function, arguments = self.top(2)
        if type(function) is not Name or type(arguments) is not tuple:
            raise TypeError("it calls what is no function")
        self.push(CALLS[function](*arguments))


class Name(str):
    """Of a function or a kind of storage: no text of the file's is one."""


def storage(about: Any) -> Storage:
    """A storage by what a pickle calls it: a word, its kind, key, device and length."""
    _, kind, key, _, count = about
    if type(kind) is not Name or type(key) is not str or not length(count):
        raise ValueError("a storage is malformed")
    return Storage(KINDS[kind], key, count)


def view(whole: Any, start: Any, shape: Any, strides: Any, *_: Any) -> View:
    """A tensor; only one whose numbers lie in order."""
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) > MOST_DIMENSIONS:
        raise ValueError("a tensor's shape is malformed")
    if type(whole) is not Storage or not all(map(length, (start, *shape, *strides))):
        raise ValueError("a tensor is malformed")
    step = 1
    for count, stride in zip(reversed(shape), reversed(strides), strict=True):
        if count > 1 and stride != step:
            raise ValueError(f"a tensor's numbers are not in order: strides {strides}")
        step *= count
    return View(whole, start, shape)


def length(value: Any) -> bool:
    """Whether a value is a length."""
    return type(value) is int and 0 <= value <= LARGEST


# What a pickle may call. `OrderedDict` is called without arguments, here at least.
CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": lambda: dict[str, Any](),
    "torch._utils _rebuild_tensor_v2": view,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
}
INSTRUCTIONS: dict[str, Callable[[Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, a: None),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"),
                    Machine.push),
    "NONE": lambda m, a: m.push(None), "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False), "MARK": lambda m, a: m.marks.append(len(m.stack)),
    "EMPTY_DICT": lambda m, a: m.push({}), "EMPTY_TUPLE": lambda m, a: m.push(()),
    "TUPLE": lambda m, a: m.push(m.marked()), "TUPLE1": lambda m, a: m.push(m.top(1)),
    "TUPLE2": lambda m, a: m.push(m.top(2)), "TUPLE3": lambda m, a: m.push(m.top(3)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, a: m.push(m.memo[a])),
    "SETITEM": lambda m, a: m.items(m.top(2)), "SETITEMS": lambda m, a: m.items(m.marked()),
    "GLOBAL": Machine.name, "REDUCE": lambda m, a: m.call(),
    "STACK_GLOBAL": lambda m, a: m.name(" ".join(m.top(2))),
    "BINPERSID": lambda m, a: m.push(storage(m.stack.pop())),
    "BUILD": lambda m, a: m.stack.pop(),  # what a dictionary of torch says of its versions
}  # fmt: skip
