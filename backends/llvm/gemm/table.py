"""Which products BLAS computes faster than the own kernels, as `benchmarks/products.py` measured.

Measured in float32, on one thread of a CPU with AVX-512, and of one with AVX2; OpenBLAS 0.3.

A product falls into a class by each of its sizes. The own kernels do what is not listed: they can
do what follows a product on tiles in the cache, so BLAS must win clearly to be chosen.
"""

from __future__ import annotations

from bisect import bisect

# Where classes of rows, columns and inner lengths begin, and a typical size of each.
BOUNDS = {"m": (1, 5, 32, 256), "n": (1, 8, 16, 128), "k": (1, 32, 256)}
TYPICAL = {"m": (2, 12, 96, 600), "n": (4, 8, 64, 400), "k": (8, 96, 600)}
CLEARLY = 0.87  # BLAS is chosen where it takes less than this part of the time
AVX512 = """
NN102 NN201 NN202 NN211 NN212 NN301 NN311 NT001 NT002 NT011 NT012 NT021 NT022 NT031 NT032 NT101
NT102 NT111 NT112 NT201 NT202 NT211 NT212 TN102 TN201 TN202 TN212 TN301 TN311 TT002 TT101 TT102
TT111 TT112 TT201 TT202 TT211 TT212 TT300 TT301 TT311
"""
AVX2 = "NN300 NT300 TN300 TT200 TT300"
BLAS_WINS = {512: frozenset(AVX512.split()), 256: frozenset(AVX2.split())}  # by bits of a vector


def blas_wins(name: str, bits: int) -> bool:
    """Whether BLAS is to compute a class of products, for vectors of so many bits."""
    return name in BLAS_WINS.get(bits, BLAS_WINS[512])


def cell(turned_a: bool, turned_b: bool, m: int, n: int, k: int) -> str:
    """The class of a product: the layouts of its operands, and the places of its sizes in `BOUNDS`.

    Example:
        >>> cell(False, True, 3, 10, 1000)
        'NT012'
    """
    places = (bisect(BOUNDS[axis], size) - 1 for axis, size in (("m", m), ("n", n), ("k", k)))
    layout = ("T" if turned_a else "N") + ("T" if turned_b else "N")
    return layout + "".join(map(str, places))
