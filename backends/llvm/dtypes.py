"""How each dtype lies in memory and in registers, and the conversions between dtypes.

float16 and bfloat16 are held in registers as float32 that has been rounded to them, so a result is
rounded once, as NumPy does; bool is ``i8`` in memory and ``i1`` in registers.
"""

from __future__ import annotations

import struct

from backends.llvm.code import Code
from backends.llvm.target import has_half
from staging.ir import FLOATS, ITEMSIZE, UNSIGNED

NARROW = ("float16", "bfloat16")
_WIDE = {"float16": "float", "bfloat16": "float", "float32": "float", "float64": "double"}
_MEMORY = {"bool": "i8", "float16": "half", "bfloat16": "i16", "float32": "float"} | {
    "float64": "double"
}


def register(dtype: str) -> str:
    """The LLVM type of a value in a register."""
    if dtype == "bool":
        return "i1"
    return _WIDE.get(dtype) or f"i{8 * ITEMSIZE[dtype]}"


def memory(dtype: str) -> str:
    """The LLVM type of a value in memory."""
    return _MEMORY.get(dtype) or f"i{8 * ITEMSIZE[dtype]}"


def accumulator(dtype: str) -> str:
    """The dtype in which sums are kept."""
    return "float32" if dtype in NARROW else dtype


def is_float(dtype: str) -> bool:
    """Whether it is a floating-point dtype."""
    return dtype in FLOATS


def address(code: Code, dtype: str, pointer: str, at: str) -> str:
    """The address of an element."""
    return code.let(f"getelementptr inbounds {memory(dtype)}, ptr {pointer}, i64 {at}")


def load(code: Code, dtype: str, pointer: str, at: str) -> str:
    """The element at a position, in a register."""
    kind = memory(dtype)
    raw = code.let(f"load {kind}, ptr {address(code, dtype, pointer, at)}, align {ITEMSIZE[dtype]}")
    return loaded(code, dtype, raw)


def loaded(code: Code, dtype: str, raw: str) -> str:
    """A value as memory holds it, in a register."""
    if dtype == "bool":
        return code.let(f"icmp ne i8 {raw}, 0")
    if dtype == "float16":
        if not has_half():
            return half_to_float(code, raw)
        return code.let(f"fpext half {raw} to float")
    if dtype == "bfloat16":
        bits = code.let(f"shl i32 {code.let(f'zext i16 {raw} to i32')}, 16")
        return code.let(f"bitcast i32 {bits} to float")
    return raw


def store(code: Code, dtype: str, value: str, pointer: str, at: str) -> None:
    """Write a register to a position."""
    to = address(code, dtype, pointer, at)
    value = stored(code, dtype, value)
    code.do(f"store {memory(dtype)} {value}, ptr {to}, align {ITEMSIZE[dtype]}")


def stored(code: Code, dtype: str, value: str) -> str:
    """A register's value as memory holds it."""
    if dtype == "bool":
        return code.let(f"zext i1 {value} to i8")
    if dtype == "float16":
        if not has_half():
            return float_to_half(code, value)
        return code.let(f"fptrunc float {value} to half")
    if dtype == "bfloat16":
        bits = code.let(f"bitcast float {value} to i32")
        return code.let(f"trunc i32 {code.let(f'lshr i32 {bits}, 16')} to i16")
    return value


def float_to_half(code: Code, value: str) -> str:
    """The nearest float16, ties to even, by integers: for CPUs without the instruction."""
    bits = code.let(f"bitcast float {value} to i32")
    sign = code.let(f"and i32 {bits}, {1 << 31}")
    size = code.let(f"xor i32 {bits}, {sign}")
    # Normal: the exponent moves from bias 127 to 15, just under half of the last place is added.
    odd = code.let(f"and i32 {code.let(f'lshr i32 {size}, 13')}, 1")
    moved = code.let(f"add i32 {size}, {((15 - 127) << 23) + 0xFFF}")
    normal = code.let(f"lshr i32 {code.let(f'add i32 {moved}, {odd}')}, 13")
    # Subnormal: adding a power of two leaves multiples of the smallest float16 in the last bits.
    magic = (127 - 15 + 23 - 10 + 1) << 23
    raised = code.let(
        f"fadd float {code.let(f'bitcast i32 {size} to float')}, "
        f"{literal('float32', 2.0 ** ((magic >> 23) - 127))}"
    )
    small = code.let(f"sub i32 {code.let(f'bitcast float {raised} to i32')}, {magic}")
    tiny = code.let(f"icmp ult i32 {size}, {113 << 23}")
    finite = code.let(f"select i1 {tiny}, i32 {small}, i32 {normal}")
    nan = code.let(f"icmp ugt i32 {size}, {0xFF << 23}")
    large = code.let(f"icmp uge i32 {size}, {(127 + 16) << 23}")
    endless = code.let(f"select i1 {nan}, i32 {0x7E00}, i32 {0x7C00}")
    made = code.let(f"select i1 {large}, i32 {endless}, i32 {finite}")
    made = code.let(f"or i32 {made}, {code.let(f'lshr i32 {sign}, 16')}")
    return code.let(f"bitcast i16 {code.let(f'trunc i32 {made} to i16')} to half")


def half_to_float(code: Code, raw: str) -> str:
    """A float16 as float32, by integers."""
    bits = code.let(f"zext i16 {code.let(f'bitcast half {raw} to i16')} to i32")
    size = code.let(f"shl i32 {code.let(f'and i32 {bits}, {0x7FFF}')}, 13")
    sign = code.let(f"shl i32 {code.let(f'and i32 {bits}, {0x8000}')}, 16")
    exponent = code.let(f"and i32 {size}, {0x7C00 << 13}")
    normal = code.let(f"add i32 {size}, {(127 - 15) << 23}")
    endless = code.let(f"add i32 {normal}, {(128 - 16) << 23}")
    raised = code.let(f"bitcast i32 {code.let(f'add i32 {normal}, {1 << 23}')} to float")
    small = code.let(f"fsub float {raised}, {literal('float32', 2.0**-14)}")
    is_endless = code.let(f"icmp eq i32 {exponent}, {0x7C00 << 13}")
    made = code.let(f"select i1 {is_endless}, i32 {endless}, i32 {normal}")
    is_small = code.let(f"icmp eq i32 {exponent}, 0")
    made = code.let(
        f"select i1 {is_small}, i32 {code.let(f'bitcast float {small} to i32')}, i32 {made}"
    )
    return code.let(f"bitcast i32 {code.let(f'or i32 {made}, {sign}')} to float")


def rounded(code: Code, dtype: str, value: str) -> str:
    """A float32 rounded to float16 or bfloat16, to nearest and ties to even."""
    if dtype == "float16":
        return loaded(code, dtype, stored(code, dtype, value))
    if dtype != "bfloat16":
        return value
    # The instruction for it flushes subnormals to zero, so: add just under half of the last place,
    # one more where the last place is odd, and clear the rest. A nan must not carry into infinity.
    bits = code.let(f"bitcast float {value} to i32")
    odd = code.let(f"and i32 {code.let(f'lshr i32 {bits}, 16')}, 1")
    up = code.let(f"add i32 {code.let(f'add i32 {bits}, 32767')}, {odd}")
    quiet = code.let(f"or i32 {bits}, 4194304")
    nan = code.let(f"fcmp uno float {value}, {value}")
    kept = code.let(f"and i32 {code.let(f'select i1 {nan}, i32 {quiet}, i32 {up}')}, -65536")
    return code.let(f"bitcast i32 {kept} to float")


def literal(dtype: str, value: bool | int | float) -> str:
    """A constant as LLVM writes it; floats by their bits."""
    if dtype == "bool":
        return "true" if value else "false"
    if not is_float(dtype):
        return str(int(value))
    wide = float(value) if register(dtype) == "double" else single(float(value))
    return f"0x{struct.unpack('<Q', struct.pack('<d', wide))[0]:016X}"


def single(value: float) -> float:
    """The nearest float32."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def cast(code: Code, value: str, source: str, to: str) -> str:
    """Convert a register: floats to nearest, to integers towards zero and saturating."""
    a, b = register(source), register(to)
    if source == to:
        return value
    if to == "bool":
        return code.let(
            f"fcmp une {a} {value}, 0.0" if is_float(source) else f"icmp ne {a} {value}, 0"
        )
    if is_float(source) and is_float(to):
        return _between_floats(code, value, source, to)
    if is_float(source):
        return _to_integer(code, value, source, to)
    unsigned = source in UNSIGNED or source == "bool"
    if is_float(to):
        made = code.let(f"{'u' if unsigned else 's'}itofp {a} {value} to {b}")
        return rounded(code, to, made)
    if int(a[1:]) == int(b[1:]):
        return value
    verb = "trunc" if int(a[1:]) > int(b[1:]) else "zext" if unsigned else "sext"
    return code.let(f"{verb} {a} {value} to {b}")


def _to_integer(code: Code, value: str, source: str, to: str) -> str:
    """Towards zero and saturating; nan is 0. LLVM's own saturating conversion is not vectorised."""
    a, b, bits = register(source), register(to), 8 * ITEMSIZE[to]
    sign = "u" if to in UNSIGNED else "s"
    least, most = (0, 2**bits - 1) if sign == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    # The largest float whose conversion is defined: what follows is the first that is too large.
    digits = 53 if a == "double" else 24
    top = most + 1 - 2 ** max(0, bits - (sign == "s") - digits)
    low, high = (literal(source, float(v)) for v in (least, top))
    inside = code.let(f"fcmp ogt {a} {value}, {low}")
    clipped = code.let(f"select i1 {inside}, {a} {value}, {a} {low}")
    above = code.let(f"fcmp ogt {a} {clipped}, {high}")
    clipped = code.let(f"select i1 {above}, {a} {high}, {a} {clipped}")
    made = code.let(f"fpto{sign}i {a} {clipped} to {b}")
    made = code.let(f"select i1 {above}, {b} {most}, {b} {made}")
    number = code.let(f"fcmp ord {a} {value}, {value}")
    return code.let(f"select i1 {number}, {b} {made}, {b} 0")


def _between_floats(code: Code, value: str, source: str, to: str) -> str:
    a, b = register(source), register(to)
    if a == b:
        return rounded(code, to, value)
    if b == "double":
        return code.let(f"fpext float {value} to double")
    near = code.let(f"fptrunc double {value} to float")
    if to != "float16":
        return rounded(code, to, near)
    # Rounding twice, to nearest, can be wrong by one place. Make the first rounding keep, in the
    # last bit, whether anything was lost ("round to odd"): then the second is right.
    back = code.let(f"fpext float {near} to double")
    lost = code.let(f"fcmp one double {back}, {value}")
    bits = code.let(f"bitcast float {near} to i32")
    even = code.let(f"icmp eq i32 {code.let(f'and i32 {bits}, 1')}, 0")
    size, size_near = (code.let(f"call double @llvm.fabs.f64(double {v})") for v in (value, back))
    beyond = code.let(f"fcmp ogt double {size}, {size_near}")
    step = code.let(f"select i1 {beyond}, i32 1, i32 -1")
    odd = code.let(f"add i32 {bits}, {step}")
    move = code.let(f"and i1 {lost}, {even}")
    kept = code.let(f"select i1 {move}, i32 {odd}, i32 {bits}")
    return rounded(code, to, code.let(f"bitcast i32 {kept} to float"))


def bitcast(code: Code, value: str, source: str, to: str) -> str:
    """The same bits as another dtype of the same width, in a register."""
    if not (is_float(source) or is_float(to)):
        return cast(code, value, source, to)
    bits = f"i{8 * ITEMSIZE[source]}"
    value = stored(code, source, value)
    if memory(source) != bits:
        value = code.let(f"bitcast {memory(source)} {value} to {bits}")
    if memory(to) != bits and to != "bool":
        value = code.let(f"bitcast {bits} {value} to {memory(to)}")
    return loaded(code, to, value)
