"""The functions of one or two float32 that programs call, as LLVM IR.

They are written without branches, so that a loop around one is vectorised; each is within 2 units
in the last place (tests/test_mathematics.py measures). Polynomials are Chebyshev
fits of what the comment beside them says, made with ``mpmath.chebyfit``; they come in ascending
order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from backends.llvm.code import Code
from backends.llvm.dtypes import literal, single
from backends.llvm.target import vector_bits

LN2 = 0.6931471805599453
# Two parts of log 2 in float32; a product of the first with an exponent is exact.
LN2_HIGH = 0.693359375
LN2_LOW = LN2 - LN2_HIGH
# Two parts of π/2 in float64.
HALF_PI, HALF_PI_LOW = 1.5707963267948966, 6.123233995736766e-17

EXP = (
    0.500000001353873,
    0.16666666681704215,
    0.04166646419740569,
    0.008333310844647862,
    0.0013933730715792083,
    0.00019891080463998843,
)  # fmt: skip  (eʳ - 1 - r) / r², |r| ≤ ln 2 / 2
LOG = (
    0.3333333333333333,
    -0.24999944186243983,
    0.19999948351310606,
    -0.1667331625320225,
    0.14291867181988005,
    -0.12288721609296725,
    0.10915654793276691,
    -0.12422200575409693,
    0.11330617385023778,
)  # fmt: skip  (log(1 + f) - f + f²/2) / f³, |f| ≤ 1/3
TANH = (
    -0.33333328944133755,
    0.13332769736959413,
    -0.05385090957696674,
    0.020997178993823574,
    -0.006096714159957808,
)  # fmt: skip  (tanh(√z)/√z - 1) / z, √z ≤ 0.625
ERF = (
    0.1283791665669025,
    -0.37612633003038975,
    0.11283683699319207,
    -0.026858722694756195,
    0.005199318198075801,
    -0.000812296088777176,
    8.28582654868752e-05,
)  # fmt: skip  erf(√z)/√z - 1, √z ≤ 0.94
ERFC = (
    0.00031853966241225597,
    -1.1302310552231873,
    -0.6318239181057594,
    -0.1100871664955004,
    0.026427637153529877,
    -0.004762625832512992,
    0.0005975857702302331,
    -4.616385862524457e-05,
    1.6430636556906173e-06,
)  # fmt: skip  log(erfc(x)), 0.9 ≤ x ≤ 4
SIN = (
    -0.16666666663844049,
    0.008333331870341349,
    -0.00019840084376422697,
    2.724962008007483e-06,
)  # fmt: skip  (sin(√z)/√z - 1) / z, √z ≤ π/4
COS = (
    -0.4999999996899589,
    0.04166665059655034,
    -0.0013887586565783838,
    2.4463452663504746e-05,
)  # fmt: skip  (cos(√z) - 1) / z, √z ≤ π/4
LOG2 = (
    2.885390081777931,
    0.9617966939151307,
    0.577078020674733,
    0.41219793923794795,
    0.32064447715432054,
    0.2606605871443275,
    0.25110948881167305,
)  # fmt: skip  log₂((1+s)/(1-s))/s in s²
EXP2 = (
    1.0,
    0.693147180545911,
    0.24022650695812833,
    0.05550410941295717,
    0.009618129159464759,
    0.0013333450481819327,
    0.00015403455792749644,
    1.531010238038351e-05,
    1.3255240797206966e-06,
)  # fmt: skip  2ᶠ, |f| ≤ 1/2
ATAN = (
    0.9999999999887381,
    -0.3333333295165722,
    0.19999978336217084,
    -0.14285225608160193,
    0.11105306732424343,
    -0.09049179093719985,
    0.07495262378097806,
    -0.06022196387933372,
    0.043646589442757525,
    -0.026005995977551006,
    0.01142763327733966,
    -0.0031954252407234186,
    0.000419227860110666,
)  # fmt: skip  atan(√z)/√z, √z ≤ 1

FIRST_LARGE = 30  # the exponent from which sine and cosine use the table of remainders


class Float(Code):
    """Arithmetic on floats of one type, float32 or float64, as it is written."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype
        self.kind, self.bits = {"float32": ("float", 32), "float64": ("double", 64)}[dtype]

    def number(self, value: float | str) -> str:
        """A constant, or a register as it is."""
        return value if isinstance(value, str) else literal(self.dtype, value)

    def binary(self, verb: str, x: float | str, y: float | str) -> str:
        """``fadd``, ``fsub``, ``fmul`` or ``fdiv``."""
        return self.let(f"{verb} {self.kind} {self.number(x)}, {self.number(y)}")

    def fma(self, x: float | str, y: float | str, z: float | str) -> str:
        """``x * y + z``, rounded once."""
        given = ", ".join(f"{self.kind} {self.number(v)}" for v in (x, y, z))
        return self.let(f"call {self.kind} @llvm.fma.f{self.bits}({given})")

    def unary(self, name: str, x: str) -> str:
        """An intrinsic function."""
        return self.let(f"call {self.kind} @llvm.{name}.f{self.bits}({self.kind} {x})")

    def signed(self, size: str, sign: str) -> str:
        """A size with the sign of another."""
        given = f"{self.kind} {size}, {self.kind} {sign}"
        return self.let(f"call {self.kind} @llvm.copysign.f{self.bits}({given})")

    def test(self, relation: str, x: float | str, y: float | str) -> str:
        """A comparison."""
        return self.let(f"fcmp {relation} {self.kind} {self.number(x)}, {self.number(y)}")

    def select(self, condition: str, x: float | str, y: float | str) -> str:
        """``x`` where the condition holds, else ``y``."""
        a, b = self.number(x), self.number(y)
        return self.let(f"select i1 {condition}, {self.kind} {a}, {self.kind} {b}")

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """A polynomial in ``x``, by Horner's rule."""
        total: float | str = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            total = self.fma(total, x, c)
        return self.number(total)

    def clamped(self, x: str, low: float, high: float) -> str:
        """``x`` between two bounds; nan stays."""
        x = self.select(self.test("olt", x, low), low, x)
        return self.select(self.test("ogt", x, high), high, x)

    def integer(self, x: str) -> str:
        """The bits."""
        return self.let(f"bitcast {self.kind} {x} to i{self.bits}")

    def float(self, bits: str) -> str:
        """The float of these bits."""
        return self.let(f"bitcast i{self.bits} {bits} to {self.kind}")

    def power_of_two(self, exponent: str) -> str:
        """Two to an integer that is the exponent of a normal float."""
        bias, place = (127, 23) if self.bits == 32 else (1023, 52)
        biased = self.let(f"add i{self.bits} {exponent}, {bias}")
        return self.float(self.let(f"shl i{self.bits} {biased}, {place}"))

    def nearest(self, x: str, factor: float) -> tuple[str, str]:
        """The integer nearest to ``x * factor``, as a float and as an integer, for |n| < 2²².

        Adding 1.5 · 2²³ (2⁵² for float64) leaves the integer in the last bits.
        """
        magic = 1.5 * 2.0 ** (23 if self.bits == 32 else 52)
        moved = self.fma(x, factor, magic)
        base = self.integer(self.number(magic))
        whole = self.let(f"sub i{self.bits} {self.integer(moved)}, {base}")
        return self.binary("fsub", moved, magic), whole


def reduced_exp(f: Float, x: str) -> tuple[str, str]:
    """``p`` and an integer ``n`` with eˣ = (1 + p) 2ⁿ, |p| < 0.42."""
    n, whole = f.nearest(x, 1 / LN2)
    r = f.fma(n, -LN2_HIGH, x)
    r = f.fma(n, -single(LN2_LOW), r)
    square = f.binary("fmul", r, r)
    return f.fma(square, f.polynomial(r, EXP), r), whole


def exp(f: Float, x: str) -> str:
    # To come to 0 by rounding, as what is masked would, is slow on most processors.
    vanishes = f.test("olt", x, -104.0)
    p, n = reduced_exp(f, f.clamped(f.select(vanishes, 0.0, x), -105.0, 89.0))
    return f.select(vanishes, 0.0, scaled(f, f.binary("fadd", p, 1.0), n))


def scaled(f: Float, x: str, n: str) -> str:
    """``x`` times two to an integer; may be subnormal."""
    if vector_bits() == 512:  # has an instruction for it
        return f.let(f"call float @llvm.ldexp.f32.i32(float {x}, i32 {n})")
    # Two factors: 2ⁿ alone may be no normal float where eˣ is one, or a subnormal.
    half = f.let(f"ashr i32 {n}, 1")
    rest = f.let(f"sub i32 {n}, {half}")
    return f.binary("fmul", f.binary("fmul", x, f.power_of_two(half)), f.power_of_two(rest))


def expm1(f: Float, x: str) -> str:
    p, n = reduced_exp(f, f.clamped(x, -20.0, 89.0))
    half = f.power_of_two(f.let(f"sub i32 {n}, 1"))  # of 2ⁿ, which may be infinite
    value = f.binary("fmul", 2.0, f.fma(half, p, f.binary("fsub", half, 0.5)))
    return f.select(f.test("oeq", x, 0.0), x, value)  # a zero keeps its sign


def parts_of(f: Float, x: str) -> tuple[str, str]:
    """A positive normal float as (1 + m) 2ᵉ, m between -1/3 and 1/3: m and e."""
    bits = f.integer(x)
    shifted = f.let(f"sub i32 {bits}, {f.integer(f.number(2 / 3))}")
    exponent = f.let(f"ashr i32 {shifted}, 23")
    mantissa = f.float(f.let(f"sub i32 {bits}, {f.let(f'shl i32 {exponent}, 23')}"))
    e = f.let(f"sitofp i32 {exponent} to float")
    return f.binary("fsub", mantissa, 1.0), e


def log_of_parts(f: Float, x: str, e: str, correction: str | None) -> str:
    """log(1 + x) + e log 2 plus a correction, from the smallest term to the largest."""
    square = f.binary("fmul", x, x)
    tail = f.binary("fmul", f.binary("fmul", square, x), f.polynomial(x, LOG))
    tail = f.fma(e, single(LN2_LOW), tail)
    if correction is not None:
        tail = f.binary("fadd", tail, correction)
    tail = f.fma(-0.5, square, tail)
    return f.fma(e, LN2_HIGH, f.binary("fadd", x, tail))


def outside_log(f: Float, x: str, result: str) -> str:
    """The logarithm where its argument is not positive and finite."""
    result = f.select(f.test("oeq", x, float("inf")), x, result)
    result = f.select(f.test("oeq", x, 0.0), float("-inf"), result)
    return f.select(f.test("ult", x, 0.0), float("nan"), result)


def log(f: Float, x: str) -> str:
    tiny = f.test("olt", x, 2.0**-126)
    normal = f.select(tiny, f.binary("fmul", x, 2.0**23), x)
    m, e = parts_of(f, normal)
    e = f.select(tiny, f.binary("fsub", e, 23.0), e)
    return outside_log(f, x, log_of_parts(f, m, e, None))


def log1p(f: Float, x: str) -> str:
    u = f.binary("fadd", x, 1.0)
    lost = f.binary("fsub", x, f.binary("fsub", u, 1.0))  # of x, when 1 was added
    result = log_of_parts(f, *parts_of(f, u), f.binary("fdiv", lost, u))
    small = f.test("olt", f.unary("fabs", x), 2.0**-24)
    return f.select(small, x, outside_log(f, u, result))


def tanh(f: Float, x: str) -> str:
    size = f.unary("fabs", x)
    square = f.binary("fmul", x, x)
    near = f.fma(f.binary("fmul", square, size), f.polynomial(square, TANH), size)
    p, n = reduced_exp(f, f.binary("fmul", f.clamped(size, 0.0, 10.0), 2.0))
    grown = f.binary("fmul", f.binary("fadd", p, 1.0), f.power_of_two(n))
    far = f.binary("fsub", 1.0, f.binary("fdiv", 2.0, f.binary("fadd", grown, 1.0)))
    return f.signed(f.select(f.test("olt", size, 0.625), near, far), x)


def erf(f: Float, x: str) -> str:
    size = f.clamped(f.unary("fabs", x), 0.0, 4.0)
    square = f.binary("fmul", size, size)
    near = f.fma(size, f.polynomial(square, ERF), size)
    p, n = reduced_exp(f, f.polynomial(size, ERFC))
    rest = f.binary("fmul", f.binary("fadd", p, 1.0), f.power_of_two(n))
    far = f.binary("fsub", 1.0, rest)
    return f.signed(f.select(f.test("olt", size, 0.9375), near, far), x)


def doubled(f: Float, x: str) -> tuple[Float, str]:
    """The same function's code, going on in float64."""
    wide = Float("float64")
    wide.lines, wide.slots, wide.count = f.lines, f.slots, f.count
    return wide, wide.let(f"fpext float {x} to double")


def halved(f: Float, wide: Float, x: str) -> str:
    """Back to float32."""
    f.count = wide.count
    return f.let(f"fptrunc double {x} to float")


def sine(quarter: int) -> Callable[[Float, str], str]:
    """The sine of ``x`` plus so many quarter turns; in float64."""

    def emit(f: Float, x: str) -> str:
        d, wide = doubled(f, x)
        high, low = remainders(d, wide)
        n, whole = d.nearest(d.binary("fadd", high, low), 1 / HALF_PI)
        r = d.binary("fadd", d.fma(n, -HALF_PI, high), low)
        r = d.fma(n, -HALF_PI_LOW, r)
        square = d.binary("fmul", r, r)
        cube = d.binary("fmul", square, r)
        odd = d.fma(cube, d.polynomial(square, SIN), r)
        even = d.fma(square, d.polynomial(square, COS), 1.0)
        turned = d.let(f"add i64 {whole}, {quarter}")
        swap = d.let(f"trunc i64 {turned} to i1")
        minus = d.let(f"icmp ne i64 {d.let(f'and i64 {turned}, 2')}, 0")
        value = d.select(swap, even, odd)
        negative = d.let(f"fneg double {value}")
        result = halved(f, d, d.select(minus, negative, value))
        # A sine of zero keeps its sign.
        return f.select(f.test("oeq", x, 0.0), x, result) if quarter == 0 else result

    return emit


def remainders(d: Float, x: str) -> tuple[str, str]:
    """What differs from ``x`` by whole turns, in two parts, and is less than 2³⁰.

    A large float32 is an integer below 2²⁴ times a power of two. The tables hold what of the power
    is left after whole turns: 29 bits, so that the product is exact, and the rest.
    """
    bits = d.integer(x)
    exponent = d.let(f"and i64 {d.let(f'lshr i64 {bits}, 52')}, 2047")
    above = d.let(f"sub i64 {exponent}, {1023 + FIRST_LARGE}")
    large = d.let(f"icmp sge i64 {above}, 0")
    most = 127 - FIRST_LARGE
    place = d.let(f"call i64 @llvm.smax.i64(i64 {above}, i64 0)")
    place = d.let(f"call i64 @llvm.umin.i64(i64 {place}, i64 {most})")
    parts: list[str] = []
    for table in ("high", "low"):
        at = d.let(f"getelementptr inbounds double, ptr @lantern.turns.{table}, i64 {place}")
        parts.append(d.let(f"load double, ptr {at}"))
    # The significand as an integer below 2²⁴, with the sign of x.
    one = d.let(f"or i64 {d.let(f'and i64 {bits}, {-(2047 << 52) - 1}')}, {(1023 + 23) << 52}")
    whole = d.float(one)
    finite = d.test("olt", d.unary("fabs", x), float("inf"))
    high, low = (d.binary("fmul", whole, p) for p in parts)
    high = d.select(large, high, x)
    return d.select(finite, high, float("nan")), d.select(large, low, 0.0)


def turns() -> str:
    """The tables of `remainders`: 2ᵏ⁻²³ less whole turns, for each large exponent k."""
    # π to 360 bits, by Machin's formula on integers.
    unit = 1 << 360

    def arctan(n: int) -> int:
        total, term, k = 0, unit // n, 1
        while term:
            total += term // k if k % 4 == 1 else -(term // k)
            term, k = term // (n * n), k + 2
        return total

    turn = Fraction(8 * (4 * arctan(5) - arctan(239)), unit)
    tables: dict[str, list[float]] = {"high": [], "low": []}
    for k in range(FIRST_LARGE, 128):
        rest = Fraction(2 ** (k - 23)) % turn
        bits = 29 - math.frexp(float(rest))[1]
        high = Fraction(int(rest * 2**bits), 1) / Fraction(2) ** bits
        tables["high"].append(float(high))
        tables["low"].append(float(rest - high))
    return "\n".join(
        f"@lantern.turns.{name} = private constant [{len(values)} x double] "
        f"[{', '.join('double ' + literal('float64', v) for v in values)}]"
        for name, values in tables.items()
    )


def pow(f: Float, x: str, y: str) -> str:
    d, a = doubled(f, x)
    b = d.let(f"fpext float {y} to double")
    size = d.unary("fabs", a)
    bits = d.integer(size)
    shifted = d.let(f"sub i64 {bits}, {d.integer(d.number(0.7071067811865476))}")
    exponent = d.let(f"ashr i64 {shifted}, 52")
    mantissa = d.float(d.let(f"sub i64 {bits}, {d.let(f'shl i64 {exponent}, 52')}"))
    e = d.let(f"sitofp i64 {exponent} to double")
    s = d.binary("fdiv", d.binary("fsub", mantissa, 1.0), d.binary("fadd", mantissa, 1.0))
    logarithm = d.fma(s, d.polynomial(d.binary("fmul", s, s), LOG2), e)
    logarithm = d.select(d.test("oeq", size, 0.0), float("-inf"), logarithm)
    logarithm = d.select(d.test("olt", size, float("inf")), logarithm, size)
    t = d.clamped(d.binary("fmul", b, logarithm), -200.0, 200.0)
    n, whole = d.nearest(t, 1.0)
    grown = d.polynomial(d.binary("fsub", t, n), EXP2)
    result = halved(f, d, d.binary("fmul", grown, d.power_of_two(whole)))
    # Below zero: an odd power is negative, one that is no integer is nan.
    whole_y = f.test("oeq", f.unary("floor", y), y)
    half = f.binary("fmul", y, 0.5)
    odd = f.let(f"and i1 {whole_y}, {f.test('one', f.unary('floor', half), half)}")
    sign = f.let(f"icmp slt i32 {f.integer(x)}, 0")
    result = f.select(f.let(f"and i1 {sign}, {odd}"), f.let(f"fneg float {result}"), result)
    size_f = f.unary("fabs", x)
    inside = f.let(f"and i1 {f.test('olt', x, 0.0)}, {f.test('olt', size_f, float('inf'))}")
    result = f.select(f.let(f"and i1 {inside}, {f.let(f'xor i1 {whole_y}, true')}"),
                      float("nan"), result)  # fmt: skip
    one = f.let(f"or i1 {f.test('oeq', x, 1.0)}, {f.test('oeq', y, 0.0)}")
    endless = f.test("oeq", f.unary("fabs", y), float("inf"))
    unit = f.let(f"and i1 {f.test('oeq', x, -1.0)}, {endless}")
    return f.select(f.let(f"or i1 {one}, {unit}"), 1.0, result)


def atan2(f: Float, y: str, x: str) -> str:
    d, a = doubled(f, y)
    b = d.let(f"fpext float {x} to double")
    height, width = d.unary("fabs", a), d.unary("fabs", b)
    steep = d.test("ogt", height, width)
    small, large = d.select(steep, width, height), d.select(steep, height, width)
    ratio = d.binary("fdiv", small, large)
    ratio = d.select(d.test("oeq", large, 0.0), 0.0, ratio)
    ratio = d.select(d.test("oeq", small, float("inf")), 1.0, ratio)
    angle = d.binary("fmul", ratio, d.polynomial(d.binary("fmul", ratio, ratio), ATAN))
    angle = d.select(steep, d.binary("fsub", HALF_PI, angle), angle)
    left = d.let(f"icmp slt i64 {d.integer(b)}, 0")
    angle = d.select(left, d.binary("fsub", 2 * HALF_PI, angle), angle)
    angle = d.select(d.test("uno", a, b), float("nan"), angle)
    # Not `signed`: LLVM would round the size, as float64, to float16 where that is wanted next.
    below = d.let(f"icmp slt i64 {d.integer(a)}, 0")
    return halved(f, d, d.select(below, d.let(f"fneg double {angle}"), angle))


SINGLE: dict[str, Callable[..., str]] = {
    "exp": exp, "expm1": expm1, "log": log, "log1p": log1p, "tanh": tanh, "erf": erf,
    "sin": sine(0), "cos": sine(1), "pow": pow, "atan2": atan2,
}  # fmt: skip
