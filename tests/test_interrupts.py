"""Ctrl-C in native loops: they stop, and the process goes on as if nothing had been."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import lantern as ln
from backends.llvm import interrupts

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")

SCRIPT = """
import os, signal, sys, threading, time
import numpy as np
import lantern as ln

def numbers(x, end):
    return ln.while_loop(lambda s: s < end, lambda s: s * 0.5 + 1, x)

def arrays(x, end):
    return ln.sum(ln.while_loop(lambda s: ln.sum(s) < end, lambda s: ln.tanh(s @ s), x))

def derivative(x, end):
    return ln.grad(lambda x: ln.while_loop(lambda s: s < end, lambda s: ln.sin(s) * s * 0, x))(x)

def divided(x, end):  # among threads
    return ln.sum(ln.map(lambda r: ln.while_loop(
        lambda s: ln.sum(s) < end, lambda s: ln.tanh(ln.sin(s) @ w), r), x))

@ln.recursive
def recursion(x, end):
    return ln.cond(x < end, lambda: recursion(x * 0.5 + 1, end), lambda: x)

w = ln.full((64, 64), 0.01)
square = ln.full((64, 64), 0.01)
for f, x in ((numbers, 0.5), (arrays, square), (divided, square), (derivative, 0.5),
             (recursion, 0.5)):
    native = ln.compile(f, threads=2)
    first = float(native(x, -1e9))
    before = signal.getsignal(signal.SIGINT)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        native(x, 1e9)
    except KeyboardInterrupt:
        assert signal.getsignal(signal.SIGINT) is before
        assert float(native(x, -1e9)) == first
        print("stopped", f.__name__, flush=True)

# What the interpreter does with the signal is what it did before.
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("awake", flush=True)

# A loop of another thread goes on.
native, found = ln.compile(lambda x, n: ln.fori_loop(0, 3, lambda i, s: ln.while_loop(
    lambda t: t[1] < n, lambda t: (t[0] + 1e-9, t[1] + 1), (s, 0))[0], x)), []
native(0.5, 1)
threading.Thread(target=lambda: found.append(float(native(0.5, 30_000_000)))).start()
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
while not found:
    try:
        time.sleep(0.05)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print("thread", len(found), flush=True)
"""


def test_loops_stop_and_the_process_goes_on() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert run.stdout.split("\n")[:-1] == [
        "stopped numbers", "stopped arrays", "stopped divided", "stopped derivative",
        "stopped recursion", "awake",
        "interrupted", "thread 1",
    ], run.stderr  # fmt: skip
    assert run.returncode == 0 and not run.stderr


def test_a_signal_is_seen_by_the_word_and_by_python() -> None:
    words: list[int] = []

    def enter(word: int) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            words.append(ctypes.c_int32.from_address(word).value)
        return 7

    with pytest.raises(KeyboardInterrupt):
        interrupts.interruptible(enter)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)  # ours is gone: nothing sets the word
    assert words == [1]


def test_who_has_another_handler_is_not_cut_off() -> None:
    """As a training loop that ends after its step, or a chat that ends after its token."""
    loop = ln.compile(
        lambda n: ln.while_loop(lambda s: s[1] < n, lambda s: (s[0] * 0.5 + 1, s[1] + 1), (0.5, 0))
    )
    loop(1)
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        while not seen:
            assert loop(20_000_000)[1].tolist() == 20_000_000
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_and_ignored_signals_are_left_alone() -> None:
    words: list[int] = []

    def enter(word: int) -> int:
        words.append(word)
        return 0

    thread = threading.Thread(target=lambda: interrupts.interruptible(enter))
    thread.start()
    thread.join()
    assert words == [interrupts.native().never]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.interruptible(enter)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_programs_without_loops_do_not_look() -> None:
    assert "%stop," not in ln.compile(lambda x: ln.sum(x * 2)).source(np.ones(3))
    looped = ln.compile(lambda x: ln.while_loop(lambda x: ln.sum(x) < 9, lambda x: x * 2, x))
    assert "load volatile i32, ptr %stop" in looped.source(np.ones(3))
