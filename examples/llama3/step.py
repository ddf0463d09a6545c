"""One step of training (section 3.4.1: AdamW, a linear warm-up, cosine annealing to near zero)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import lantern as ln
from examples.llama3.checkpoint import State
from examples.llama3.config import LearnConfig, Settings
from examples.llama3.data import NO_TARGET, Batch
from examples.llama3.model import Params, init, loss

Step = Callable[[State, Batch], tuple[State, float, float]]
Objective = Callable[..., ln.Tensor]  # with the arguments of `model.loss`
Gradient = Callable[[Params, Any, Any, Any], tuple[ln.Tensor, Params]]


def begin(config: Settings, params: Params | None = None) -> State:
    """The state before the first step, of parameters that are drawn, or were learnt before."""
    parameters, order = ln.random.split(ln.random.key(config.train.seed))
    params = init(parameters, config.model) if params is None else params
    return State(params, optimizer_of(config.train).init(params), 0, 0, order)


def owned(state: State) -> State:
    """The same state in memory of its own, which a compiled step may take over."""

    def copied(tree: Any) -> Any:
        return ln.tree.map(lambda x: ln.asarray(x, copy=True), tree)

    return state._replace(params=copied(state.params), optimizer=copied(state.optimizer))


def schedule_of(config: LearnConfig) -> Callable[[Any], Any]:
    """The learning rate of a step, counted from 0."""
    rise = min(round(config.warmup * config.steps), config.steps - 1)
    return ln.optim.warmup_cosine(config.lr, rise, config.steps, config.final_lr * config.lr)


def optimizer_of(config: LearnConfig) -> ln.optim.Optimizer:
    """Clipping by global norm, if that is asked for, then AdamW, which shrinks matrices but not the
    gains of norms."""
    adamw = ln.optim.adamw(
        schedule_of(config),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=lambda params: ln.tree.map(lambda p: p.ndim > 1, params),
    )
    clip = (ln.optim.clip_by_global_norm(config.clip),) if config.clip else ()
    return ln.optim.chain(*clip, adamw)


TABLES = ("['embedding']", "['output']")  # as `ln.tree.paths` writes them


def narrowed(params: Params) -> Params:
    """Parameters as `narrow` casts them."""
    names = ln.tree.paths(params)
    leaves = [
        p if name in TABLES else ln.astype(p, ln.bfloat16)
        for name, p in zip(names, ln.tree.leaves(params), strict=True)
    ]
    return ln.tree.unflatten(ln.tree.structure(params), leaves)


def narrow(loss: Callable[..., ln.Tensor]) -> Callable[..., ln.Tensor]:
    """The loss, its blocks computed in bfloat16. The tables of tokens, which are read by rows and
    in chunks, stay as they are."""
    return ln.mixed_precision(loss, keep=lambda path: path in TABLES)


def gradient_of(config: Settings, loss: Objective = loss) -> Gradient:
    """The function from parameters and a batch to the loss and its gradient.

    With ``--accumulate``, one part of the sequences after the other is computed, and gradients are
    summed. Each part counts as much as it has targets, so that this is the gradient of the whole.
    """
    t = config.train
    mean = functools.partial(loss, checkpoint=t.checkpoint)
    if t.bf16:
        mean = narrow(mean)

    def share(params: Params, batch: Batch, known: Any) -> ln.Tensor:
        part = mean(params, *batch, config.model)
        return part * (ln.sum(batch.targets != NO_TARGET) / known)

    def whole(params: Params, tokens: Any, targets: Any, segments: Any) -> Any:
        if t.accumulate == 1:
            return ln.value_and_grad(mean)(params, tokens, targets, segments, config.model)
        known = ln.sum(targets != NO_TARGET)
        parts = [ln.reshape(x, (t.accumulate, -1, x.shape[1])) for x in (tokens, targets, segments)]

        def add(total: Any, part: Any) -> tuple[Any, None]:
            found = ln.value_and_grad(share)(params, Batch(*part), known)
            return ln.tree.map(lambda a, b: a + b, total, found), None

        nothing = (ln.zeros(()), ln.tree.map(ln.zeros_like, params))
        return ln.scan(add, nothing, parts)[0]

    return whole


def step_of(config: Settings, loss: Objective = loss) -> Step:
    """The function from a state and a batch to the next state, the loss and the gradient's norm.

    Compiled, the next state lies in the memory of the last one, which is gone.
    """
    optimizer, with_gradient = optimizer_of(config.train), gradient_of(config, loss)

    def learn(params: Params, moments: Any, tokens: Any, targets: Any, segments: Any) -> Any:
        value, gradient = with_gradient(params, tokens, targets, segments)
        updates, moments = optimizer.update(gradient, moments, params)
        norm = ln.optim.global_norm(gradient)
        return value, norm, ln.optim.apply_updates(params, updates), moments

    if not config.train.eager:
        threads = config.train.threads or None
        learn = ln.compile(learn, donate=("params", "moments"), threads=threads)

    def step(state: State, batch: Batch) -> tuple[State, float, float]:
        # Overflow shows in the loss or the norm, which `loop` checks and names; no warnings
        # besides.
        with quiet_overflow():
            value, norm, params, moments = learn(state.params, state.optimizer, *batch)
        after = State(
            params, moments, state.step + 1, state.position + len(batch.tokens), state.key
        )
        return after, float(value), float(norm)

    return step


def quiet_overflow() -> np.errstate:
    """No warnings of NumPy's: overflow shows in the numbers that `check_finite` names."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")
