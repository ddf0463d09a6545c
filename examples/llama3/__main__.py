"""The command line: `python -m examples.llama3 COMMAND`. Each command is a module of `commands`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from examples.llama3.files import Problem
from examples.llama3.machine import INTERRUPTED, keep_freed_memory

COMMANDS = {
    "tokenise": "encode text once, into files that `train` maps into memory",
    "train": "train a model, or go on training it",
    "chat": "talk to SmolLM2, or to another model, in the terminal",
    "generate": "continue a prompt with a trained model",
    "batch": "answer the prompts in a file, many at a time",
    "finetune": "teach a model the answers of chats",
    "scaling": "find a scaling law with small models, and predict a larger one's loss",
    "lengthen": "go on training a model at longer sequences, in stages",
    "needle": "hide a fact in long texts, and see whether a model finds it",
    "perplexity": "measure how likely a text is, with weights, keys and values in fewer bits",
    "report": "tell what a run took of energy and emissions",
    "convert": "write a model in another format, for transformers or llama.cpp",
    "demo": "train for about three minutes in runs/demo, then show a sample",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the process's exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(arguments[0] if arguments else "").parse_args(arguments)
    keep_freed_memory()
    try:
        return options.run(options)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, `head` for instance, has seen enough
        return 1
    except OSError as problem:  # a full disk, a folder that may not be written to
        print(f"error: {problem}", file=sys.stderr)
        return 1


def parser(chosen: str) -> argparse.ArgumentParser:
    """The command line's grammar. Only the chosen command is imported, and has its options: what
    talks should not wait for what trains."""
    top = argparse.ArgumentParser(
        prog="python -m examples.llama3", description="A small Llama 3 on lantern."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, help in COMMANDS.items():
        command = commands.add_parser(name, help=help)
        if name == chosen:
            module = import_module(f"examples.llama3.commands.{name}")
            module.add_options(command)
            command.set_defaults(run=module.run)
    return top


if __name__ == "__main__":
    sys.exit(main())
