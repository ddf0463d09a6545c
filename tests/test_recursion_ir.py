"""Recursion in the representation: text that reads back, what is refused, what the interpreter does
with groups of functions, sums, nodes and deep stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from staging.cost import Machine, estimate
from staging.interpret import interpret
from staging.ir import IRError, Program, walk
from staging.pipeline import DEFAULT
from staging.text import parse_program, print_program
from staging.verify import verify

FACTORIAL = """program @factorial(%n: int64[]) {
  %r = recurse(%n) {functions=(('f', 1, 1, ((), ())),), entry=0, captured=0, sums=()} block(%k: int64[]) {
    %one = constant() {value=1, dtype='int64'}: int64[]
    %small = le(%k, %one): bool[]
    %which = cast(%small) {dtype='int64'}: int64[]
    return (%which, %k, %one)
  } block(%k_1: int64[], %one_1: int64[]) {
    %less = sub(%k_1, %one_1): int64[]
    %f = recur(%less) {function=0, results=(('int64', ()),)}: int64[]
    %product = mul(%k_1, %f): int64[]
    return (%product)
  } block(%k_2: int64[], %one_2: int64[]) {
    return (%one_2)
  }: int64[]
  return (%r)
}
"""  # noqa: E501

# The sum of a tree's values, times a captured weight; how often the weight was used; the leaves.
TREE = """program @tree(%root: int64[], %left: int64[5], %right: int64[5], %w: float64[], %x: float64[5]) {
  %r, %used, %where = recurse(%root, %left, %right, %w, %x) {functions=(('node', 1, 1, ((), (0, 0, 1, 1))),), entry=0, captured=4, sums=(('int64', ()), ('float64', (5,)))} block(%i: int64[], %l: int64[5], %m: int64[5], %a: float64[], %v: float64[5]) {
    %child = gather(%l, %i): int64[]
    %zero = constant() {value=0, dtype='int64'}: int64[]
    %leaf = lt(%child, %zero): bool[]
    %which = cast(%leaf) {dtype='int64'}: int64[]
    return (%which, %i, %child)
  } block(%i_1: int64[], %c: int64[], %l_1: int64[5], %m_1: int64[5], %a_1: float64[], %v_1: float64[5]) {
    %p = recur(%c) {function=0, results=(('float64', ()),)}: float64[]
    %d = gather(%m_1, %i_1): int64[]
    %q = recur(%d) {function=0, results=(('float64', ()),)}: float64[]
    %s = add(%p, %q): float64[]
    return (%s)
  } block(%i_2: int64[], %c_2: int64[], %l_2: int64[5], %m_2: int64[5], %a_2: float64[], %v_2: float64[5]) {
    %y = gather(%v_2, %i_2): float64[]
    %z = mul(%a_2, %y): float64[]
    %once = constant() {value=1, dtype='int64'}: int64[]
    return (%z, %once, %y, %i_2)
  }: float64[], int64[], float64[5]
  return (%r, %used, %where)
}
"""  # noqa: E501

# even(n) = n == 0 or odd(n - 1), both in tail position.
EVEN = """program @even(%n: int64[]) {
  %r = recurse(%n) {functions=(('even', 1, 1, ((), ())), ('odd', 1, 1, ((), ()))), entry=0, captured=0, sums=()} block(%a: int64[]) {
    return (%a, %a)
  } block(%a_1: int64[]) {
    %yes = constant() {value=true, dtype='bool'}: bool[]
    return (%yes)
  } block(%a_2: int64[]) {
    %one = constant() {value=1, dtype='int64'}: int64[]
    %less = sub(%a_2, %one): int64[]
    %t = recur(%less) {function=1, results=(('bool', ()),)}: bool[]
    return (%t)
  } block(%b: int64[]) {
    return (%b, %b)
  } block(%b_1: int64[]) {
    %no = constant() {value=false, dtype='bool'}: bool[]
    return (%no)
  } block(%b_2: int64[]) {
    %one_1 = constant() {value=1, dtype='int64'}: int64[]
    %less_1 = sub(%b_2, %one_1): int64[]
    %t_1 = recur(%less_1) {function=0, results=(('bool', ()),)}: bool[]
    return (%t_1)
  }: bool[]
  return (%r)
}
"""  # noqa: E501

# The powers of x up to the n-th as a chain of nodes, and their sum from the chain: forth and back.
CHAIN = """program @chain(%n: int64[], %x: float64[]) {
  %y, %node = recurse(%n, %x, %x) {functions=(('forth', 2, 2, ((), ())),), entry=0, captured=1, sums=()} block(%k: int64[], %p: float64[], %c: float64[]) {
    return (%k, %k, %p)
  } block(%k_1: int64[], %p_1: float64[], %c_1: float64[]) {
    %end = pack(%p_1) {tag=0}: node[]
    return (%p_1, %end)
  } block(%k_2: int64[], %p_2: float64[], %c_2: float64[]) {
    %one = constant() {value=1, dtype='int64'}: int64[]
    %less = sub(%k_2, %one): int64[]
    %next = mul(%p_2, %c_2): float64[]
    %f, %inner = recur(%less, %next) {function=0, results=(('float64', ()), ('node', ()))}: float64[], node[]
    %made = pack(%p_2, %inner) {tag=1}: node[]
    return (%f, %made)
  }: float64[], node[]
  %total = recurse(%node) {functions=(('back', 1, 1, ((), ())),), entry=0, captured=0, sums=()} block(%m: node[]) {
    %which = tag(%m): int64[]
    return (%which, %m)
  } block(%m_1: node[]) {
    %v = unpack(%m_1) {results=(('float64', ()),)}: float64[]
    return (%v)
  } block(%m_2: node[]) {
    %w, %below = unpack(%m_2) {results=(('float64', ()), ('node', ()))}: float64[], node[]
    %rest = recur(%below) {function=0, results=(('float64', ()),)}: float64[]
    %sum = add(%w, %rest): float64[]
    return (%sum)
  }: float64[]
  return (%y, %total)
}
"""  # noqa: E501

NOTHING = """program @nothing(%x: float64[]) {
  %null = empty() {shape=(), dtype='node'}: node[]
  %which = tag(%null): int64[]
  %y, %inner = unpack(%null) {results=(('float64', (2,)), ('node', ()))}: float64[2], node[]
  %z = unpack(%inner) {results=(('float64', ()),)}: float64[]
  %s = add(%x, %z): float64[]
  return (%which, %y, %s)
}
"""

PROGRAMS = (FACTORIAL, TREE, EVEN, CHAIN, NOTHING)


def integer(value: int) -> Any:
    return np.asarray(value, np.int64)


@pytest.mark.parametrize("source", PROGRAMS)
def test_printed_programs_read_back(source: str) -> None:
    program = verify(parse_program(source))
    again = print_program(parse_program(print_program(program)))
    assert again == print_program(program)


def optimised(source: str) -> Program:
    program = parse_program(source)
    for one in DEFAULT:
        program = verify(one.run(program))
    return program


@pytest.mark.parametrize("through", [parse_program, optimised])
def test_meaning(through: Any) -> None:
    """Before and after the passes."""
    assert interpret(through(FACTORIAL), [integer(10)]) == [3628800]
    left, right = np.asarray([1, -1, 3, -1, -1]), np.asarray([2, -1, 4, -1, -1])
    x = np.asarray([0.0, 1.0, 0.0, 2.0, 5.0])
    total, used, where = interpret(through(TREE), [integer(0), left, right, np.asarray(0.5), x])
    assert (total, used, where.tolist()) == (4.0, 3, [0.0, 1.0, 0.0, 2.0, 5.0])
    assert interpret(through(EVEN), [integer(7)]) == [False]
    y, total = interpret(through(CHAIN), [integer(4), np.asarray(2.0)])
    assert (y, total) == (32.0, 2 + 4 + 8 + 16 + 32)
    which, zeros, s = interpret(through(NOTHING), [np.asarray(3.0)])
    assert which == 0 and not zeros.any() and s == 3.0


def test_depth_is_bounded_by_memory_alone() -> None:
    """The chain keeps a node for each of the calls; even and odd keep nothing."""
    depth = 20_000
    assert interpret(parse_program(EVEN), [integer(depth)]) == [True]
    y, total = interpret(parse_program(CHAIN), [integer(depth), np.asarray(1.0)])
    assert (y, total) == (1.0, depth + 1)


def test_dead_calls_stay_where_they_may_add_to_a_sum() -> None:
    """What a `recur` gives is not all that it does; of a `recurse` it is."""
    unused = TREE.replace("%s = add(%p, %q)", "%s = add(%p, %p)")
    program = optimised(unused)
    assert sum(op.name == "recur" for op in walk(program.block)) == 2
    program = optimised(TREE.replace("return (%r, %used, %where)", "return (%w)"))
    assert program.block.ops == ()


def test_costs_count_one_call_along_every_path() -> None:
    machine = Machine(1e9, ((float("inf"), 1e9),))
    assert estimate(optimised(TREE), machine).flops > 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("function=0, results=(('int64', ()),)}", "function=1, results=(('int64', ()),)}",
         "calls function 1, which there is not"),
        ("('f', 1, 1, ((), ()))", "('f', 1, 1, ())", "more blocks"),
        ("('f', 1, 1, ((), ()))", "('f', 1, 1, ((), (), ()))", "more blocks"),
        ("('f', 1, 1, ((), ()))", "('f', 1, 1, ((), (0, 0)))", "differ in their results"),
        ("entry=0", "entry=2", "no such entry"),
        ("return (%which, %k, %one)", "return (%small, %k, %one)", "chosen by an int64"),
        ("return (%which, %k, %one)", "return (%which, %k)", "other values than it is given"),
        ("return (%one_2)", "return (%one_2, %one_2)", "differ in their results"),
        ("captured=0", "captured=1", "takes other"),
    ],
)  # fmt: skip
def test_groups_that_do_not_fit_are_refused(old: str, new: str, message: str) -> None:
    assert old in FACTORIAL
    with pytest.raises(IRError, match=message):
        parse_program(FACTORIAL.replace(old, new))


def test_recur_stands_in_a_recurse_and_in_no_other_block() -> None:
    with pytest.raises(IRError, match="outside of a recurse"):
        verify(
            parse_program("""program @p(%n: int64[]) {
          %y = recur(%n) {function=0, results=(('int64', ()),)}: int64[]
          return (%y)
        }""")
        )
    nested = FACTORIAL.replace(
        "%f = recur(%less) {function=0, results=(('int64', ()),)}: int64[]",
        """%f = call(%less) block(%z: int64[]) {
          %g = recur(%z) {function=0, results=(('int64', ()),)}: int64[]
          return (%g)
        }: int64[]""",
    )
    with pytest.raises(IRError, match="inside of a call"):
        parse_program(nested)
