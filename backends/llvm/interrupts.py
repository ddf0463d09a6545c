"""Ctrl-C in native code: a word that is not 0 once the user wants to interrupt the program.

Python's own handler of the signal only notes it for the interpreter, which runs again when the
native code returns. So while the main thread is in native code that has loops, a handler of ours
stands before Python's: it sets a word that loops look at, and then calls the other one. Such a
program leaves with `INTERRUPTED`, and Python raises what its handler raises: KeyboardInterrupt.
A program of one's own that has another handler decides itself what Ctrl-C does: a training loop may
end after its step, which then must not be cut off. Programs without loops pay nothing; where there
is no ``sigaction``, nothing is interrupted.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import _cffi_backend

from backends.llvm.code import Code
from backends.llvm.target import Library, machine, parsed

SIGINT = int(signal.SIGINT)
# To make an enumeration of what it finds takes `getsignal` three microseconds.
_getsignal: Any = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
INTERRUPTED = -2  # what a program that was interrupted returns
ROOM = 256  # bytes, more than a `struct sigaction` has; it begins with the handler
EXPORTS = ("lantern.watch", "lantern.unwatch", "lantern.interrupt", "lantern.never")


def handler() -> str:
    """LLVM IR of the handler, and of functions that put it before another one and take it away."""
    return f"""
@lantern.interrupt = global i32 0, align 64
@lantern.never = constant i32 0, align 64
@before = internal global [{ROOM} x i8] zeroinitializer, align 16

declare i32 @sigaction(i32, ptr, ptr)

define internal void @interrupt(i32 %signal, ptr %info, ptr %context) {{
  store atomic volatile i32 1, ptr @lantern.interrupt seq_cst, align 4
  %other = load ptr, ptr @before
  call void %other(i32 %signal, ptr %info, ptr %context)
  ret void
}}

define i32 @lantern.watch() {{
  %action = alloca [{ROOM} x i8], align 16
  call i32 @sigaction(i32 {SIGINT}, ptr null, ptr %action)
  %other = load ptr, ptr %action
  %number = ptrtoint ptr %other to i64
  %default = icmp ule i64 %number, 1
  %ours = icmp eq ptr %other, @interrupt
  %leave = or i1 %default, %ours
  br i1 %leave, label %as.it.is, label %change
as.it.is:
  ret i32 0
change:
  call void @llvm.memcpy.p0.p0.i64(ptr @before, ptr %action, i64 {ROOM}, i1 false)
  store atomic i32 0, ptr @lantern.interrupt seq_cst, align 4
  store ptr @interrupt, ptr %action
  call i32 @sigaction(i32 {SIGINT}, ptr %action, ptr null)
  ret i32 1
}}

define void @lantern.unwatch() {{
  call i32 @sigaction(i32 {SIGINT}, ptr @before, ptr null)
  ret void
}}
"""


def interrupted(code: Code) -> str:
    """An ``i1``: whether the user wants to interrupt the program whose word is ``%stop``."""
    return code.let(f"icmp ne i32 {code.let('load volatile i32, ptr %stop, align 4')}, 0")


class Native(NamedTuple):
    """The functions of `handler`, and the addresses of the words; ``never`` is always 0."""

    library: Library
    watch: Callable[[], int]
    unwatch: Callable[[], Any]
    interrupt: int
    never: int


@cache
def native() -> Native:
    """The handler, compiled once for this process."""
    library = Library([machine().emit_object(parsed(handler()))], EXPORTS, {})
    watch, unwatch, interrupt, never = (library.addresses[name] for name in EXPORTS)
    ffi = _cffi_backend.FFI()
    return Native(
        library, ffi.cast("int(*)()", watch), ffi.cast("void(*)()", unwatch), interrupt, never
    )


def interruptible(enter: Callable[[int], int]) -> int:
    """Call native code that takes the address of a word, and leaves soon when that is not 0."""
    code = native()
    raises = _getsignal(SIGINT) is signal.default_int_handler
    main = threading.get_ident() == threading.main_thread().ident
    if os.name != "posix" or not (raises and main):
        return enter(code.never)
    watched = code.watch()
    try:
        return enter(code.interrupt)
    finally:
        if watched:
            code.unwatch()
