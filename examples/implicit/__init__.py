"""Differentiate the solution of an equation: `python -m examples.implicit`.

A solver is a ``while`` that stops when it is close enough. Its derivative can be had in two ways:
*through* it, by running each of its steps backward, or from the equation alone, by the implicit
function theorem. Both are here, in the order in which they are best read:

    solvers.py      Newton's method and fixed-point iteration, as loops of Python
    theorem.py      the derivative of a solution that knows nothing of how it was found
    problems.py     Kepler's equation, and a layer that is an equilibrium
    __main__.py     both derivatives side by side: how exact, how fast, and what they keep
"""
