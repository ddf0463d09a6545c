"""Layers, initialisers and losses as pure functions on pytrees of parameters.

A layer with parameters is a pair: ``params = linear_init(key, …)`` makes a dict of Tensors, and
``linear(x, **params)`` applies it. The names and layouts of the parameters are PyTorch's, so that
its weights load as they are.
"""

from lantern.nn import init
from lantern.nn.attention import attention
from lantern.nn.layers import dropout, embedding, embedding_init, linear, linear_init
from lantern.nn.losses import bce_with_logits, cross_entropy, ctc, linear_cross_entropy, mse
from lantern.nn.norm import (
    batch_norm,
    batch_norm_init,
    layer_norm,
    layer_norm_init,
    rms_norm,
    rms_norm_init,
)
from lantern.nn.recurrent import (
    gru_cell,
    gru_cell_init,
    lstm_cell,
    lstm_cell_init,
    rnn_cell,
    rnn_cell_init,
    unroll,
)
from lantern.nn.rotary import Llama3Scaling, apply_rope, rope_frequencies

__all__ = [
    "Llama3Scaling",
    "apply_rope",
    "attention",
    "batch_norm",
    "batch_norm_init",
    "bce_with_logits",
    "cross_entropy",
    "ctc",
    "dropout",
    "embedding",
    "embedding_init",
    "gru_cell",
    "gru_cell_init",
    "init",
    "layer_norm",
    "layer_norm_init",
    "linear",
    "linear_cross_entropy",
    "linear_init",
    "lstm_cell",
    "lstm_cell_init",
    "mse",
    "rms_norm",
    "rms_norm_init",
    "rnn_cell",
    "rnn_cell_init",
    "rope_frequencies",
    "unroll",
]
