"""lantern: differentiable programming by delimited continuations."""

from lantern import (
    carbon,
    checkpoint_policies,
    cuda,
    debug,
    errors,
    io,
    linalg,
    methods,  # attaches operators and methods to Tensor
    nn,
    optim,
    random,
    testing,
    tree,
)
from lantern.abstract import *
from lantern.batching import *
from lantern.branches import *
from lantern.checkpoint import *
from lantern.convert import *
from lantern.creation import *
from lantern.dtypes import *
from lantern.jacobians import *
from lantern.loops import *
from lantern.ops.activations import *
from lantern.ops.assembly import *
from lantern.ops.convolution import *
from lantern.ops.elementwise import *
from lantern.ops.indexing import *
from lantern.ops.logic import *
from lantern.ops.manipulation import *
from lantern.ops.pooling import *
from lantern.ops.products import *
from lantern.ops.reductions import *
from lantern.ops.sorting import *
from lantern.ops.transcendental import *
from lantern.precision import *
from lantern.recursion import *
from lantern.staged.compiled import *
from lantern.staged.insight import *
from lantern.tensor import Tensor
from lantern.transform import (
    custom_vjp,
    grad,
    jvp,
    stop_gradient,
    value_and_grad,
    vjp,
)
from lantern.vectorize import *

__array_api_version__ = "2024.12"
__version__ = "0.1.0"
