"""Programs to try: each with the constants that its data are made with, and the inputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from examples.expression_interpreter.assembler import Program, assemble
from examples.expression_interpreter.fitting import Array, predict


class Task(NamedTuple):
    """A program, and what it has to find.

    Attributes:
        text: of the program.
        constants: what it should learn.
        low: the smallest input.
        high: the largest.
        rate: how far a step of descent goes.
    """

    text: str
    constants: dict[str, float]
    low: float
    high: float
    rate: float = 0.05

    def solved(self) -> Program:
        """The program with the constants that it should learn."""
        program = assemble(self.text)
        for name, value in self.constants.items():
            program.registers[program.learnt[name]] = value
        return program


POLYNOMIAL = Task(
    """\
given x
learn a = 0, b = 0, c = 0
return (a * x + b) * x + c
""",
    {"a": 0.5, "b": -1.0, "c": 2.0},
    -2.0,
    2.0,
)
# A branch: which line an input is on depends on a constant that is learnt.
KNOT = Task(
    """\
given x
learn knot = 0, height = 0, left = 0, right = 0
if x < knot {
    y = height + left * (x - knot)
} else {
    y = height + right * (x - knot)
}
return y
""",
    {"knot": 0.7, "height": 1.0, "left": -0.5, "right": 2.0},
    -2.0,
    2.0,
)
# A loop whose steps the input decides: Euler's method for logistic growth.
GROWTH = Task(
    """\
given t
learn rate = 0.5, capacity = 1
y = 0.1
while t > 0 {
    y = y + 0.1 * rate * y * (1 - y / capacity)
    t = t - 0.1
}
return y
""",
    {"rate": 1.3, "capacity": 2.0},
    0.0,
    6.0,
)
# Two variables that depend on each other, step by step: a pendulum that comes to rest.
PENDULUM = Task(
    """\
given t
learn gravity = 2, friction = 0.1
angle = 1
speed = 0
while t > 0 {
    speed = speed - 0.05 * (gravity * sin(angle) + friction * speed)
    angle = angle + 0.05 * speed
    t = t - 0.05
}
return angle
""",
    {"gravity": 3.0, "friction": 0.4},
    0.0,
    4.0,
)
# A loop that ends when a result is good enough: Newton's method for a cube root.
ROOT = Task(
    """\
given x
learn scale = 1
y = 1
error = 1
while error > 0.000001 {
    error = y ^ 3 - scale * x
    y = y - error / (3 * y * y)
    error = abs(error)
}
return y
""",
    {"scale": 2.5},
    0.5,
    3.0,
)
TASKS = {"polynomial": POLYNOMIAL, "knot": KNOT, "growth": GROWTH, "pendulum": PENDULUM,
         "root": ROOT}  # fmt: skip


def data(task: Task, count: int, noise: float, seed: int = 0) -> tuple[Array, Array]:
    """Inputs, and what the program returns for them, with some noise."""
    program = task.solved()
    inputs = np.linspace(task.low, task.high, count)
    outputs = np.asarray(predict(program.registers, program.code, inputs))
    return inputs, outputs + noise * np.random.default_rng(seed).normal(size=count)
