"""The contenders of the row about fine-tuning: `examples.llama3.step` in lantern, and PyTorch.

They find the parameters and a text in a file that `written` makes, so that none of them holds what
it takes to read a model.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import llama3_data
from benchmarks.llama3_data import Params, Shape
from benchmarks.worker import Clock, Job

STEPS = 3  # that are compared
RATE, BETA1, BETA2, EPS = 1e-4, 0.9, 0.99, 1e-8  # AdamW's, as `TuneConfig` has them; no decay
HIDDEN = 32  # tokens of the question, which is read and not learned
PLACES = 257  # of each parameter at which gradients are compared, besides their length


@dataclasses.dataclass(frozen=True)
class Given:
    """What all contenders begin with.

    Attributes:
        shape: of the network.
        params: its parameters.
        tokens, targets: integers [B, T]; a target of -1 is not learned.
    """

    shape: Shape
    params: Params
    tokens: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]


def written(folder: Path, shape: str, trained: bool) -> str:
    """Write what all contenders begin with.

    Args:
        folder: where.
        shape: a name in `llama3_data.SHAPES`.
        trained: with the parameters of SmolLM2 and English text, which that shape must fit;
            otherwise all is drawn at random.

    Returns:
        The file.
    """
    s = llama3_data.SHAPES[shape]
    if trained:
        from examples.llama3 import weights

        model = weights.load(weights.smollm2())
        params = llama3_data.mapped(np.asarray, model.params)
        text = Path(weights.__file__).read_text(encoding="utf-8")
        known = model.tokenizer.encode(text)[: s.batch * s.context + 1]
        tokens, targets = (np.reshape(part, (s.batch, -1)) for part in (known[:-1], known[1:]))
    else:
        params = llama3_data.parameters(s)
        tokens, targets = llama3_data.tokens(s)
    targets = targets.copy()
    targets[:, : min(HIDDEN, s.context // 2)] = -1
    path = folder / "given.pickle"
    with path.open("wb") as file:
        pickle.dump(Given(s, params, np.asarray(tokens, np.int64), targets), file, protocol=5)
    return str(path)


def read(path: str) -> Given:
    """What `written` wrote, in memory that may be written."""
    with Path(path).open("rb") as file:
        given = pickle.load(file)
    return dataclasses.replace(given, params=llama3_data.mapped(np.array, given.params))


def digest(moments: Sequence[Any]) -> list[Any]:
    """Of each first moment after one step, which is the gradient times a constant, its length and
    the numbers at some places: whole, all of them are as large as the model."""
    found: list[Any] = []
    for moment in moments:
        flat = np.asarray(moment).reshape(-1)
        found.append(np.sqrt(np.vdot(flat, flat)))
        found.append(flat[:: max(1, flat.size // PLACES)].copy())
    return found


def in_lantern(path: str) -> Job:
    """The step of `python -m examples.llama3 finetune`, all parameters, at a constant rate."""
    import lantern as ln
    from benchmarks.llama3_lantern import config_of
    from examples.llama3.config import TuneConfig, Tuning
    from examples.llama3.data import Batch
    from examples.llama3.step import begin, step_of

    given = read(path)
    tune = TuneConfig(
        batch=given.shape.batch, row=given.shape.context, lr=RATE, warmup=0.0, final_lr=1.0,
        beta1=BETA1, beta2=BETA2,
    )  # fmt: skip
    config = Tuning(config_of(given.shape), tune)
    batch = Batch(given.tokens, given.targets, np.zeros_like(given.tokens))
    state = begin(config, llama3_data.mapped(ln.asarray, given.params))
    now = [state]
    learn = step_of(config)
    del given, state

    def run(clock: Clock) -> float:
        now[0], value, _ = learn(now[0], batch)
        return value

    def check() -> list[Any]:
        losses = [run(Clock())]
        moments = digest(ln.tree.leaves(now[0].optimizer[-1].first))
        losses += [run(Clock()) for _ in range(STEPS - 1)]
        return [np.asarray(losses), *moments]

    return Job(check, run)


def in_torch(path: str, threads: int, compiled: bool, eager_updates: bool = False) -> Job:
    """The same in PyTorch, with its fused kernels.

    Args:
        path: what `written` returned.
        threads: how many it gets.
        compiled: with torch.compile.
        eager_updates: update each parameter as soon as its gradient is there, so that no two
            gradients need to be held (PyTorch's "optimizer in backward").
    """
    import torch

    from benchmarks.llama3_torch import loss_of

    torch.set_num_threads(threads)
    given = read(path)
    params = llama3_data.mapped(lambda p: torch.from_numpy(p).requires_grad_(), given.params)
    leaves = llama3_data.leaves(params)
    tokens, targets = torch.from_numpy(given.tokens), torch.from_numpy(given.targets)
    forward = loss_of(given.shape)
    forward = torch.compile(forward) if compiled else forward
    del given

    def optimizer(parameters: list[Any]) -> Any:
        return torch.optim.AdamW(
            parameters, lr=RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=0.0, fused=True
        )

    if eager_updates:
        owners: dict[Any, Any] = {p: optimizer([p]) for p in leaves}

        def update(parameter: Any) -> None:
            owners[parameter].step()
            owners[parameter].zero_grad(set_to_none=True)

        for p in leaves:
            p.register_post_accumulate_grad_hook(update)
    else:
        owners = dict.fromkeys(leaves, optimizer(leaves))

    def run(clock: Clock) -> float:
        value = forward(params, tokens, targets)
        value.backward()
        if not eager_updates:
            owners[leaves[0]].step()
            owners[leaves[0]].zero_grad(set_to_none=True)
        return value.item()

    def check() -> list[Any]:
        losses = [run(Clock())]
        moments = digest([owners[p].state[p]["exp_avg"].numpy() for p in leaves])
        losses += [run(Clock()) for _ in range(STEPS - 1)]
        return [np.asarray(losses), *moments]

    return Job(check, run)
