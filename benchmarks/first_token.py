"""How long one waits for the first token: from the start of a process to what it prints first.

Each contender is a command that reads SmolLM2-135M from the disk and continues a text, started
anew each time, by turns. The first time, which is told as cold, nothing is compiled; then
everything is where an earlier run has left it, the files in the system's memory, too.

    python -m benchmarks.first_token [--quick]
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import NATIVE, ROOT, Entry, Options, Result, Row, spread

PROMPT, QUESTION = "Once upon a time", "What is the capital of France?"
WARM_AT_MOST = 1.5
LANTERN, PEERS = "examples.llama3", "benchmarks.first_token_peers"
GREEDY = ("--tokens", "2", "--temperature", "0")


@dataclass(frozen=True)
class Command:
    """What is started.

    Attributes:
        name: who does it.
        arguments: of Python.
        needs: the packages without which it does not take part.
        typed: what it gets on its standard input.
        ahead: what it prints before the first token.
        alike: whether it continues the same text as the first contender.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    typed: str = ""
    ahead: str = ""
    alike: bool = True


@dataclass
class Starts:
    """What starting a command came to: seconds, the first time and after it."""

    cold: float
    warm: list[float] = field(default_factory=list[float])


def commands(model: Path, folder: Path, threads: int) -> list[Command]:
    """Who is started.

    Args:
        model: a GGUF file.
        folder: the same model for transformers.
        threads: how many there are.
    """
    generate = ("generate", "--model", str(model), "--prompt", PROMPT, *GREEDY)
    chat = ("chat", "--model", str(model), *GREEDY)
    return [
        Command("lantern", ("-m", LANTERN, *generate), NATIVE, ahead=PROMPT),
        Command("lantern, chat", ("-m", LANTERN, *chat), NATIVE, QUESTION + "\n", alike=False),
        Command(
            "llama.cpp", ("-m", PEERS, "llama_cpp", str(model), PROMPT, str(threads)),
            ("xllamacpp",),
        ),
        Command(
            "transformers", ("-m", PEERS, "transformers", str(folder), PROMPT, str(threads)),
            ("torch", "transformers"),
        ),
    ]  # fmt: skip


def present(command: Command, options: Options) -> bool:
    """Whether a command is asked for, and what it needs is installed."""
    asked = not options.only or command.name.startswith(options.only)
    return asked and all(map(importlib.util.find_spec, command.needs))


def begin(command: Command, threads: int, caches: str) -> tuple[float, str]:
    """Start a command, and end it when its first token is there.

    Returns:
        The seconds that this took, and the token.

    Raises:
        RuntimeError: it ended without one.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    # An installed library has its bytecode on disk.
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), "XDG_CACHE_HOME": caches,
                   "PYTHONDONTWRITEBYTECODE": ""}  # fmt: skip
    ahead, found = command.ahead.encode(), b""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *command.arguments], cwd=ROOT, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:threads])
        process.stdin.write(command.typed.encode())
        process.stdin.close()
        while len(found) <= len(ahead) and (more := os.read(process.stdout.fileno(), 4096)):
            found += more
        seconds = time.perf_counter() - started
        process.kill()
    if len(found) <= len(ahead) or not found.startswith(ahead):
        raise RuntimeError(f"{command.name} printed {found!r} instead of a token")
    return seconds, found[len(ahead) :].decode(errors="replace")


@contextmanager
def models(wanted: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """SmolLM2 as a GGUF file, and, if that is wanted, in a folder for transformers."""
    from examples.llama3 import weights

    path = weights.smollm2()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "model")
        if "transformers" in wanted:
            model = weights.load(path)
            weights.save(folder, model.params, model.config, model.tokenizer)
        yield path, folder


def first_token(options: Options) -> list[Result]:
    """The row."""
    names = [c.name for c in commands(Path(), Path(), 1) if present(c, options)]
    found: dict[str, Starts] = {}
    tokens: dict[str, str] = {}
    with models(names) as (path, folder), tempfile.TemporaryDirectory() as caches:
        chosen = [c for c in commands(path, folder, options.threads) if c.name in names]
        for one in chosen:
            seconds, tokens[one.name] = begin(one, options.threads, f"{caches}/{one.name}")
            found[one.name] = Starts(seconds)
        agree(chosen, tokens)
        for _ in range(2 if options.quick else 7):
            for one in chosen:
                seconds, _ = begin(one, options.threads, f"{caches}/{one.name}")
                found[one.name].warm.append(seconds)
    name = "from the start of a process to the first token of SmolLM2-135M"
    return [Result("first-token", name, entries(found))]


def agree(chosen: Sequence[Command], tokens: Mapping[str, str]) -> None:
    """Compare what continues the same text.

    Raises:
        AssertionError: two of them disagree.
    """
    alike = [tokens[one.name] for one in chosen if one.alike]
    for text in alike[1:]:
        assert text[0] == alike[0][0], f"the first tokens are {tokens}"


def entries(found: Mapping[str, Starts]) -> list[Entry]:
    """The lines: of lantern also the first time, when it compiles."""
    lines: list[Entry] = []
    (first, *_) = found.values()
    for name, starts in found.items():
        line = Entry(name, "warm", statistics.median(starts.warm), "s", spread(starts.warm),
                     rounds=starts.warm)  # fmt: skip
        if starts is not first:
            pairs = zip(starts.warm, first.warm, strict=True)
            line.ratio = statistics.median(b / a for b, a in pairs)
        lines.append(line)
        if name.startswith("lantern"):
            line.wanted, line.met = f"≤ {WARM_AT_MOST:g} s", line.value <= WARM_AT_MOST
            lines.append(Entry(name, "cold", starts.cold, "s"))
    return lines


ROWS: dict[str, Row] = {"first-token": first_token}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
