"""Functions of one float64, written like those of float32 in `backends.llvm.mathematics`; each is
within 2 units in the last place.

They have no branches, but for sine and cosine, which leave what is far from zero to the C library.
The polynomials are Chebyshev fits of what the comment beside them says, in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.llvm.mathematics import HALF_PI, HALF_PI_LOW, LN2, Float, outside_log

# Two parts of log 2; a product of the first with an exponent is exact.
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
HALF_ROOT = 0.7071067811865476

EXP = (
    0.5,
    0.16666666666666666,
    0.04166666666666668,
    0.008333333333333333,
    0.0013888888888879073,
    0.00019841269841263298,
    2.4801587336442236e-05,
    2.755731924721873e-06,
    2.75572632790885e-07,
    2.505207109429355e-08,
    2.0918137737642736e-09,
    1.608662795678037e-10,
)  # fmt: skip  (eʳ - 1 - r) / r², |r| ≤ ln 2 / 2
LOG = (
    0.6666666666666666,
    0.3999999999999999,
    0.2857142857143538,
    0.22222222219852464,
    0.1818181859457047,
    0.15384575060560599,
    0.13335641774000268,
    0.1168805409426866,
    0.11882627381096524,
)  # fmt: skip  (log((1+s)/(1-s)) / s - 2) / s² in s², s ≤ 0.1716
SIN = (
    -0.16666666666666666,
    0.008333333333330948,
    -0.00019841269836756774,
    2.7557316101617874e-06,
    -2.505113165023518e-08,
    1.5918115263265974e-10,
)  # fmt: skip  (sin(√z)/√z - 1) / z, √z ≤ π/4
COS = (
    0.041666666666666664,
    -0.0013888888888887398,
    2.480158729876456e-05,
    -2.7557317271145144e-07,
    2.087614614655861e-09,
    -1.1382623647474604e-11,
)  # fmt: skip  (cos(√z) - 1 + z/2) / z², √z ≤ π/4
HALF_PI_LOWEST = -1.4973849048591698e-33  # what the two parts of π/2 lack
FAR = 2.0**30  # from where three parts of π/2 are too few to tell where in its turn a number lies


def reduced_exp(f: Float, x: str, exact: bool = False) -> tuple[str, str]:
    """``p`` and an integer ``n`` with eˣ = (1 + p) 2ⁿ, |p| < 0.42; with ``exact``, p is rounded but
    once, more or less."""
    n, whole = f.nearest(x, 1 / LN2)
    high = f.fma(n, -LN2_HIGH, x)
    r = f.fma(n, -LN2_LOW, high)
    tail = f.binary("fmul", f.binary("fmul", r, r), f.polynomial(r, EXP))
    if exact:  # what the rounding of r lost, times the slope of the exponential
        lost = f.fma(n, -LN2_LOW, f.binary("fsub", high, r))
        tail = f.binary("fadd", tail, f.fma(lost, r, lost))
    return f.binary("fadd", r, tail), whole


def exp(f: Float, x: str) -> str:
    vanishes = f.test("olt", x, -746.0)  # see the one of float32
    p, n = reduced_exp(f, f.clamped(f.select(vanishes, 0.0, x), -746.0, 710.0))
    # Two factors: 2ⁿ alone may be no normal float where eˣ is one, or a subnormal.
    half = f.let(f"ashr i64 {n}, 1")
    rest = f.let(f"sub i64 {n}, {half}")
    scaled = f.binary("fmul", f.binary("fadd", p, 1.0), f.power_of_two(half))
    result = f.binary("fmul", scaled, f.power_of_two(rest))
    return f.select(vanishes, 0.0, result)


def grown(f: Float, x: str) -> str:
    """eˣ - 1."""
    p, n = reduced_exp(f, f.clamped(x, -40.0, 710.0), exact=True)
    half = f.power_of_two(f.let(f"sub i64 {n}, 1"))  # of 2ⁿ, which may be infinite
    return f.binary("fmul", 2.0, f.fma(half, p, f.binary("fsub", half, 0.5)))


def expm1(f: Float, x: str) -> str:
    return f.select(f.test("oeq", x, 0.0), x, grown(f, x))  # a zero keeps its sign


def log_of(f: Float, x: str, correction: str | None, lifted: str) -> str:
    """The logarithm of a positive normal float, with ``lifted`` taken off its exponent."""
    bits = f.integer(x)
    shifted = f.let(f"sub i64 {bits}, {f.integer(f.number(HALF_ROOT))}")
    exponent = f.let(f"ashr i64 {shifted}, 52")
    mantissa = f.float(f.let(f"sub i64 {bits}, {f.let(f'shl i64 {exponent}, 52')}"))
    e = f.let(f"sitofp i32 {f.let(f'trunc i64 {exponent} to i32')} to double")
    e = f.binary("fsub", e, lifted)
    m = f.binary("fsub", mantissa, 1.0)
    s = f.binary("fdiv", m, f.binary("fadd", m, 2.0))
    z = f.binary("fmul", s, s)
    half = f.binary("fmul", f.binary("fmul", m, 0.5), m)
    tail = f.fma(z, f.polynomial(z, LOG), half)
    # log(1 + m) = m - m²/2 + s (m²/2 + R), from the smallest term to the largest
    tail = f.fma(s, tail, f.binary("fmul", e, LN2_LOW))
    if correction is not None:
        tail = f.binary("fadd", tail, correction)
    tail = f.binary("fsub", tail, half)
    return f.fma(e, LN2_HIGH, f.binary("fadd", m, tail))


def log(f: Float, x: str) -> str:
    tiny = f.test("olt", x, 2.0**-1022)
    normal = f.select(tiny, f.binary("fmul", x, 2.0**54), x)
    return outside_log(f, x, log_of(f, normal, None, f.select(tiny, 54.0, 0.0)))


def log1p(f: Float, x: str) -> str:
    u = f.binary("fadd", x, 1.0)
    # What of x, or for a large x of 1, was lost when 1 was added.
    lost = f.binary("fsub", x, f.binary("fsub", u, 1.0))
    result = log_of(f, u, f.binary("fdiv", lost, u), f.number(0.0))
    small = f.test("olt", f.unary("fabs", x), 2.0**-53)
    return f.select(small, x, outside_log(f, u, result))


def tanh(f: Float, x: str) -> str:
    size = f.unary("fabs", x)
    t = grown(f, f.binary("fmul", f.clamped(size, 0.0, 20.0), 2.0))
    # t / (t + 2), with what the sum and the quotient lost
    below = f.binary("fadd", t, 2.0)
    lost = f.binary("fsub", t, f.binary("fsub", below, 2.0))
    inverse = f.binary("fdiv", 1.0, below)
    near = f.binary("fmul", t, inverse)
    minus = f.let(f"fneg double {near}")
    near = f.fma(f.fma(minus, lost, f.fma(minus, below, t)), inverse, near)
    far = f.fma(-2.0, inverse, 1.0)
    return f.signed(f.select(f.test("olt", size, 0.5), near, far), x)


def sine(name: str, quarter: int) -> Callable[[Float, str], str]:
    """The sine of ``x`` plus so many quarter turns; by that name in the C library."""

    def emit(f: Float, x: str) -> str:
        result = f.slot("double")
        f.do(f"store double {near_sine(f, x, quarter)}, ptr {result}")
        with f.when(f.test("uge", f.unary("fabs", x), FAR)):  # nan as well
            f.do(f"store double {f.let(f'call double @{name}(double {x})')}, ptr {result}")
        return f.let(f"load double, ptr {result}")

    return emit


def near_sine(f: Float, x: str, quarter: int) -> str:
    """The same for ``x`` below `FAR`."""
    n, whole = f.nearest(x, 1 / HALF_PI)
    r, low = remainder(f, x, n)
    z = f.binary("fmul", r, r)
    # sin(r + low) = r + (r³ P(z) + low (1 - z/2)), from the smallest term to the largest
    half = f.binary("fmul", z, 0.5)
    slope = f.fma(f.let(f"fneg double {half}"), low, low)
    odd = f.fma(f.binary("fmul", z, r), f.polynomial(z, SIN), slope)
    odd = f.binary("fadd", r, odd)
    # cos(r + low) = 1 - z/2 + (z² P(z) - r low), with what the first difference lost
    near = f.binary("fsub", 1.0, half)
    lost = f.binary("fsub", f.binary("fsub", 1.0, near), half)
    even = f.fma(f.binary("fmul", z, z), f.polynomial(z, COS), lost)
    even = f.fma(f.let(f"fneg double {r}"), low, even)
    even = f.binary("fadd", near, even)
    turned = f.let(f"add i64 {whole}, {quarter}")
    value = f.select(f.let(f"trunc i64 {turned} to i1"), even, odd)
    minus = f.let(f"icmp ne i64 {f.let(f'and i64 {turned}, 2')}, 0")
    result = f.select(minus, f.let(f"fneg double {value}"), value)
    # A sine of zero keeps its sign.
    return f.select(f.test("oeq", x, 0.0), x, result) if quarter == 0 else result


def remainder(f: Float, x: str, n: str) -> tuple[str, str]:
    """``x - n π/2`` in two parts, of which the first is nearly all; n is below `FAR`."""
    exact = f.fma(n, -HALF_PI, x)  # less than 1, and a multiple of the last place of π/2
    part = f.binary("fmul", n, HALF_PI_LOW)
    rest = f.fma(n, HALF_PI_LOW, f.let(f"fneg double {part}"))
    r = f.binary("fsub", exact, part)
    lost = f.binary("fsub", f.binary("fsub", exact, r), part)
    return r, f.fma(n, -HALF_PI_LOWEST, f.binary("fsub", lost, rest))


DOUBLE: dict[str, Callable[[Float, str], str]] = {
    "exp": exp, "expm1": expm1, "log": log, "log1p": log1p, "tanh": tanh,
    "sin": sine("sin", 0), "cos": sine("cos", 1),
}  # fmt: skip
