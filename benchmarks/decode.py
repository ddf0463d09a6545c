"""Writing and reading of text with a small Llama: a token at a time, a prompt at once, in batches.

python -m benchmarks.decode [--row decode-A decode-SmolLM2 prefill batching] [--quick]
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.decode_models import FLOAT, SMOLLM2
from benchmarks.harness import NATIVE, Contender, Options, Result, Row, Workload, measure

JOBS = "benchmarks.decode_jobs:"
BATCH = 16
WANTED = {8: 2.0, 4: 2.5}  # of each number of bits: how many times as fast as in float32
# How far results may differ from those with the same rounded weights in float32. What a weight is
# multiplied by is then an integer of 16 bits, all of a position with one scale, so it is off by up
# to 2^-16 of the largest: some 1e-4 of one of usual size beside outliers. With the real weights of
# SmolLM2, 30 layers make 2e-3 of it.
ROUNDED = 5e-3
# And llama.cpp's, which rounds to 8 bits, 32 numbers with a scale: it is off by 2.4 / (127 √12), a
# two hundredth of a number of usual size, as weights of 8 bits are from those of float32. In
# SmolLM2 these come to 0.05 of the largest of 32 log-probabilities, and llama.cpp's to 0.10. One
# layer whose rotary pairs are mixed up makes 0.18, a gain of 1.5 in one layer 0.27.
LLAMA_CPP = 0.125
READ = 0.85  # of the rate at which the same bytes are read
PRODUCTS = 0.7  # of the rate of the products alone


def lantern(name: str, at_least: float | None = None, **arguments: Any) -> Contender:
    """The example's decoder."""
    return Contender(name, f"{JOBS}in_lantern", arguments, NATIVE, at_least=at_least)


def bytes_alone(options: Options, at_least: float | None = None, **arguments: Any) -> Contender:
    """Reading the weights, and nothing else."""
    return Contender(
        "reading the weights alone", f"{JOBS}reading_alone",
        {**arguments, "threads": options.threads}, NATIVE, at_least=at_least, bound=True,
    )  # fmt: skip


def prompts(model: str, tokens: int, options: Options) -> list[Contender]:
    """Who reads a prompt at once."""
    given = {"model": model, "tokens": tokens}
    torch = {**given, "threads": options.threads}
    return [
        Contender("lantern", f"{JOBS}reading_prompt", given, NATIVE),
        Contender("PyTorch, eager", f"{JOBS}reading_prompt_in_torch", torch, ("torch",)),
        Contender("its products alone, by BLAS", f"{JOBS}products_alone", given,
                  at_least=PRODUCTS, bound=True),
    ]  # fmt: skip


def in_float32(model: str, tokens: int, options: Options) -> list[Contender]:
    """Who decodes in float32."""
    common = {"model": model, "tokens": tokens, "threads": options.threads}
    c = Contender("plain C, as llama2.c", f"{JOBS}in_c", common, at_least=1.2)
    torch = [
        Contender(name, f"{JOBS}in_torch", {**common, "compiled": compiled}, ("torch",))
        for name, compiled in (("PyTorch, eager", False), ("torch.compile", True))
    ]
    return [
        lantern("lantern", model=model, tokens=tokens, bits=FLOAT),
        *([c] if shutil.which("cc") else []),
        *torch,
        bytes_alone(options, READ, model=model, tokens=tokens, bits=FLOAT),
    ]


def in_few_bits(model: str, bits: int, tokens: int, options: Options) -> list[Contender]:
    """Who decodes in so many bits: llama.cpp at each number of threads, the best of which counts,
    so lantern has to be faster than all. In float32 lantern reads the same weights, widened: the
    right results."""
    common = {"model": model, "tokens": tokens, "bits": bits}
    llama = [
        Contender(f"llama.cpp, {n} thread{'s' * (n > 1)}", f"{JOBS}in_llama_cpp",
                  {**common, "threads": n}, ("xllamacpp", "gguf"), at_least=1.0, rtol=LLAMA_CPP)
        for n in range(1, options.threads + 1)
    ]  # fmt: skip
    return [
        lantern("lantern", **common),
        lantern("lantern in float32", WANTED[bits], **common, widened=True),
        *llama,
        bytes_alone(options, **common),
    ]


def decoding(model: str, options: Options) -> list[Result]:
    """A token at a time, one text."""
    tokens, rounds = (4, 3) if options.quick else (32, 5)
    row = "decode-" + model.partition("-")[0]

    def result(what: str, contenders: Sequence[Contender], rtol: float) -> Result:
        name = f"{model} writes {tokens} tokens, one text, {what}"
        return measure(Workload(row, name, contenders, tokens, "token", rtol, rounds), options)

    return [
        result("float32", in_float32(model, tokens, options), 1e-4),
        *(result(f"{bits} bits", in_few_bits(model, bits, tokens, options), ROUNDED)
          for bits in WANTED),
    ]  # fmt: skip


def prefill(options: Options) -> list[Result]:
    """A prompt of one chunk, beside its products alone."""
    rounds = 3 if options.quick else 5
    results: list[Result] = []
    for model in ("A",) if options.quick else ("A", SMOLLM2):
        name = f"{model} reads a prompt of 128 tokens, float32"
        work = Workload("prefill", name, prompts(model, 128, options), 128, "token", 1e-4, rounds)
        results.append(measure(work, options))
    return results


def batching(options: Options) -> list[Result]:
    """Many texts at once, beside one."""
    tokens, rounds = (BATCH, 3) if options.quick else (8 * BATCH, 5)
    results: list[Result] = []
    for model in ("A",) if options.quick else ("A", SMOLLM2):
        common = {"model": model, "tokens": tokens, "bits": FLOAT}

        def contender(name: str, batch: int, least: float | None = None, common: Any = common
                      ) -> Contender:  # fmt: skip
            arguments = {**common, "batch": batch}
            return Contender(name, f"{JOBS}in_batches", arguments, NATIVE, at_least=least)

        contenders = [contender(f"{BATCH} texts at once", BATCH), contender("one text", 1, 6.0)]
        name = f"{model} writes {tokens} tokens, float32"
        work = Workload("batching", name, contenders, tokens, "token", 1e-4, rounds)
        results.append(measure(work, options))
    return results


ROWS: dict[str, Row] = {
    "decode-A": functools.partial(decoding, "A"),
    "decode-SmolLM2": functools.partial(decoding, SMOLLM2),
    "prefill": prefill,
    "batching": batching,
}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
