"""``convert``: write a model in another format."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

import lantern as ln
from examples.console import show
from examples.llama3 import weights
from examples.llama3.files import Problem
from examples.llama3.model import parameter_count

DTYPES = {"f32": ln.float32, "bf16": ln.bfloat16, "f16": ln.float16, "q8_0": "q8_0"}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``convert``."""
    command.add_argument(
        "source", type=Path, metavar="SOURCE",
        help="a .gguf file, a folder of Hugging Face or of Meta, or the folder of a run",
    )  # fmt: skip
    command.add_argument(
        "target",
        type=Path,
        metavar="TARGET",
        help="a folder, for transformers; or a .gguf file, for llama.cpp",
    )
    command.add_argument(
        "--dtype", choices=[*DTYPES], default="bf16",
        help="of the weights; q8_0 for .gguf files only (default: bf16)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Convert."""
    console, target = Console(), options.target
    if options.dtype == "q8_0" and target.suffix != ".gguf":
        raise Problem(f"--dtype q8_0 is for .gguf files; {target} would be a folder")
    if target.exists():
        raise Problem(f"{target} exists already; remove it, or name another")
    began = time.perf_counter()
    model = weights.load(options.source, console=console)
    weights.save(target, model.params, model.config, model.tokenizer, DTYPES[options.dtype])
    files = [*target.iterdir()] if target.is_dir() else [target]
    size = sum(file.stat().st_size for file in files)
    show(
        console,
        f"{target}: {parameter_count(model.params):,} parameters in {options.dtype}, "
        f"{size / 1e6:,.1f} MB in {len(files)} files, {time.perf_counter() - began:.1f} s",
    )
    return 0
