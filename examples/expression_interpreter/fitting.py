"""Constants from data: how far a program is from it, and descent along the gradient of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import lantern as ln
from examples.expression_interpreter.assembler import Program
from examples.expression_interpreter.machine import Code, run

Array = np.ndarray[Any, Any]


def answers(registers: Any, code: Code, inputs: Any) -> Any:
    """What a program returns for each input."""
    return ln.map(lambda x: run(code, registers.at[0].set(x)), inputs)


def loss(registers: Any, code: Code, inputs: Any, outputs: Any) -> Any:
    """The mean square of what a program is off."""
    return ln.mean((answers(registers, code, inputs) - outputs) ** 2)


# Each is compiled once for all programs, however many instructions and registers they have.
predict = ln.compile(answers, dynamic=("registers", "code"))
slope = ln.compile(ln.value_and_grad(loss), dynamic=("registers", "code"))


class State(NamedTuple):
    """Where descent is.

    Attributes:
        loss: of the constants before the step that led here.
        constants: those that are learnt, by name.
        program: with these.
    """

    loss: float
    constants: dict[str, float]
    program: Program


def descend(program: Program, inputs: Array, outputs: Array, rate: float) -> Iterator[State]:
    """Change the constants that a program learns, step by step, until nobody asks for more.

    Args:
        program: from `assemble`.
        inputs: numbers, shape (n,).
        outputs: what the program should return for each.
        rate: how far a step goes.
    """
    places = np.asarray([*program.learnt.values()], np.int64)
    optimizer = ln.optim.adamw(rate, weight_decay=0.0)
    constants = ln.asarray(program.registers[places])
    state = optimizer.init(constants)
    while True:
        value, gradient = slope(program.registers, program.code, inputs, outputs)
        updates, state = optimizer.update(gradient[places], state, constants)
        constants = ln.optim.apply_updates(constants, updates)
        registers = program.registers.copy()
        registers[places] = np.asarray(constants)
        program = program._replace(registers=registers)
        named = dict(zip(program.learnt, registers[places].tolist(), strict=True))
        yield State(float(value), named, program)


def fit(program: Program, inputs: Array, outputs: Array, steps: int, rate: float) -> State:
    """The state after some steps.

    Example:
        >>> from examples.expression_interpreter.assembler import assemble
        >>> lines = "given x", "learn slope = 1.0", "return slope * x"
        >>> x = np.linspace(-1, 1, 5)
        >>> found = fit(assemble(chr(10).join(lines)), x, 3 * x, steps=200, rate=0.1)
        >>> round(found.constants["slope"], 3)
        3.0
    """
    states = descend(program, inputs, outputs, rate)
    for _ in range(steps - 1):
        next(states)
    return next(states)
