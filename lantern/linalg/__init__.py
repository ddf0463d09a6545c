"""The linear algebra extension of the Python array API standard, and NumPy's `norm`.

All functions act on stacks of matrices (..., m, n), and all have derivatives of the first and the
second order, `matrix_rank` excepted. Only floating dtypes are taken, apart from products; float16
and bfloat16 are computed in float32 and rounded once. A matrix for which an operation does not
exist raises `LinAlgError`, which is also a ``numpy.linalg.LinAlgError``.
"""

from lantern.linalg.factorizations import (
    EighResult,
    QRResult,
    SVDResult,
    cholesky,
    eigh,
    eigvalsh,
    qr,
    svd,
    svdvals,
)
from lantern.linalg.norms import matrix_norm, norm, vector_norm
from lantern.linalg.systems import (
    SlogdetResult,
    det,
    inv,
    matrix_power,
    matrix_rank,
    pinv,
    slogdet,
    solve,
)
from lantern.ops.manipulation import matrix_transpose
from lantern.ops.products import cross, diagonal, matmul, outer, tensordot, trace, vecdot
from lantern.primitives.decompositions import LinAlgError

__all__ = [
    "EighResult",
    "LinAlgError",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]
