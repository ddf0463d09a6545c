"""The contenders of the rows about decoding: lantern, PyTorch, llama.cpp, plain C, and what bounds
all of them: reading the bytes of the weights once."""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decode_models import leaves, load, text, write_gguf
from benchmarks.worker import Clock, Job
from examples.llama3.config import ModelConfig

Read = Callable[[int, int], tuple[int, float]]
"""From a token and its position to the most likely token behind it, and its log-probability."""

SOURCE = Path(__file__).with_name("decode.c")
CAPACITY = 256  # positions of every contender's memory
COMPARED = 32  # tokens of the text on which contenders have to agree


def reading(read: Read, config: ModelConfig, tokens: int) -> Job:
    """Write some tokens. What is compared is what a given text makes likely, token by token, so
    that no choice between equals counts."""
    given = text(config, COMPARED)

    def run(clock: Clock) -> None:
        token = given[0]
        for position in range(tokens):
            token, _ = read(token, position)

    return Job(lambda: [np.array([read(x, t)[1] for t, x in enumerate(given)])], run)


def likeliest(logits: np.ndarray[Any, Any]) -> tuple[int, float]:
    """The token with the largest logit, and its log-probability."""
    best = int(np.argmax(logits))
    return best, -float(np.log(np.sum(np.exp(logits - logits[best]))))


def in_lantern(model: str, bits: int, tokens: int, widened: bool = False) -> Job:
    """The example's writer, and what its decoder makes of a text; see `load`."""
    from examples.llama3.generate import Writer
    from examples.llama3.sampling import GREEDY

    config, params = load(model, bits, widened)
    writer, start = Writer(params, config), text(config, 1)
    decoder = writer.decoder

    def read(token: int, position: int) -> tuple[int, float]:
        if position == 0:
            decoder.rewind(0, 0)
        return decoder.advance([[token]], [GREEDY], [position])[0]

    def run(clock: Clock) -> None:
        assert len([*writer.write(start, GREEDY, tokens)]) == tokens

    return Job(reading(read, config, tokens).check, run)


def in_batches(model: str, bits: int, tokens: int, batch: int) -> Job:
    """The example's decoder, several texts at once: each writes its share of some tokens."""
    from examples.llama3.decode import Decoder
    from examples.llama3.sampling import GREEDY

    config, params = load(model, bits)
    decoder = Decoder(params, config, batch)

    def run(clock: Clock) -> list[Any]:
        for i in range(batch):
            decoder.rewind(i, 0)
        chosen = [1] * batch
        for t in range(tokens // batch):
            found = decoder.advance([[x] for x in chosen], [GREEDY] * batch, [t] * batch)
            chosen = [one.token for one in found]
        return chosen

    def check() -> list[Any]:
        """What the first token makes likely."""
        decoder.rewind(0, 0)
        return [np.array([decoder.advance([[1]] * batch, [GREEDY] * batch, [0] * batch)[0][1]])]

    return Job(check, run)


def in_torch(model: str, tokens: int, threads: int, compiled: bool) -> Job:
    """The same network in PyTorch, with a cache of keys and values."""
    import torch
    import torch.nn.functional as f

    torch.set_num_threads(threads)
    config, params = load(model, 32)
    c, kv, theta = config.head_dim, config.kv_heads, config.rope_theta
    tree = {
        "embedding": params["embedding"], "norm": params["norm"], "layers": params["layers"],
        "output": params["embedding"] if config.tied else params["output"],
    }  # fmt: skip

    def tensors(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: tensors(v) for k, v in x.items()}
        return [tensors(v) for v in x] if isinstance(x, list) else torch.tensor(np.asarray(x))

    weights = tensors(tree)
    cache = [torch.zeros(2, kv, CAPACITY, c) for _ in range(config.layers)]
    angles = torch.arange(CAPACITY)[:, None] * theta ** (-torch.arange(0, c, 2) / c)
    cosines, sines = angles.cos(), angles.sin()
    places = torch.arange(CAPACITY)

    def turn(x: Any, t: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        cos, sin = cosines.index_select(0, t[None]), sines.index_select(0, t[None])
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def forward(token: Any, t: Any, seen: int) -> Any:
        x = f.embedding(token, weights["embedding"])  # [D]
        mask = (places[:seen] <= t)[None, None] if compiled else None
        for w, past in zip(weights["layers"], cache, strict=True):
            h = f.rms_norm(x, x.shape, w["attention_norm"], config.norm_eps)
            q = turn(f.linear(h, w["query"]).unflatten(-1, (-1, c)), t)
            k = turn(f.linear(h, w["key"]).unflatten(-1, (-1, c)), t)
            v = f.linear(h, w["value"]).unflatten(-1, (-1, c))
            past.index_copy_(2, t[None], torch.stack([k, v])[:, :, None])
            keys, values = past[:, None, :, :seen]
            y = f.scaled_dot_product_attention(
                q[None, :, None], keys, values, attn_mask=mask, enable_gqa=config.heads != kv
            )
            x = x + f.linear(y.flatten(), w["output"])
            h = f.rms_norm(x, x.shape, w["ffn_norm"], config.norm_eps)
            x = x + f.linear(f.silu(f.linear(h, w["gate"])) * f.linear(h, w["up"]), w["down"])
        x = f.rms_norm(x, x.shape, weights["norm"], config.norm_eps)
        return f.linear(x, weights["output"])

    step = torch.compile(forward) if compiled else forward

    def read(token: int, position: int) -> tuple[int, float]:
        with torch.inference_mode():
            seen = CAPACITY if compiled else position + 1
            logits = step(torch.tensor(token), torch.tensor(position), seen)
            return likeliest(logits.numpy())

    return reading(read, config, tokens)


def in_llama_cpp(model: str, bits: int, tokens: int, threads: int) -> Job:
    """llama.cpp, with the same codes and scales."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # compiled, without types
    config, params = load(model, bits)
    given = text(config, COMPARED)
    how = xllamacpp.CommonParams()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        write_gguf(config, params, path)
        how.model.path = str(path)
        how.n_ctx, how.n_parallel, how.verbosity = CAPACITY, 1, 0
        how.cpuparams.n_threads = how.cpuparams_batch.n_threads = threads
        server = xllamacpp.Server(how)

    def complete(prompt: list[int], count: int, **more: Any) -> Any:
        return server.handle_completions(
            {"prompt": prompt, "n_predict": count, "temperature": 0, "ignore_eos": True, **more}
        )

    def likely(prompt: list[int]) -> float:
        choice = complete(prompt, 1, n_probs=1)["choices"][0]
        return choice["logprobs"]["content"][0]["logprob"]

    def run(clock: Clock) -> None:
        complete(given[:1], tokens, cache_prompt=False)

    return Job(lambda: [np.array([likely(given[: t + 1]) for t in range(COMPARED)])], run)


class Config(ctypes.Structure):
    """As `decode.c` has it."""

    _fields_ = [
        *((name, ctypes.c_int) for name in (
            "vocab", "dim", "layers", "heads", "kv_heads", "head_dim", "ffn", "context"
        )),
        ("rope_theta", ctypes.c_float), ("norm_eps", ctypes.c_float),
    ]  # fmt: skip


LAYER = (
    "attention_norm", "query", "key", "value", "output", "ffn_norm", "gate", "up", "down",
)  # fmt: skip


def in_c(model: str, tokens: int, threads: int) -> Job:
    """Plain C, compiled as llama2.c's `make runomp` does, for this CPU."""
    config, params = load(model, 32)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "decode.so")
        flags = ("-Ofast", "-fopenmp", "-march=native", "-shared", "-fPIC")
        subprocess.run(["cc", *flags, SOURCE, "-o", made, "-lm"], check=True)
        library = ctypes.CDLL(str(made))
    head = params["embedding" if config.tied else "output"]
    arrays = [params["embedding"], params["norm"], head]
    arrays += [layer[name] for layer in params["layers"] for name in LAYER]
    kept = [np.ascontiguousarray(np.asarray(x)) for x in arrays]
    pointers = (ctypes.c_void_p * len(kept))(*(x.ctypes.data for x in kept))
    shape = Config(
        config.vocab, config.dim, config.layers, config.heads, config.kv_heads, config.head_dim,
        config.ffn, CAPACITY, config.rope_theta, config.norm_eps,
    )  # fmt: skip
    library.begin.restype = ctypes.c_void_p
    library.forward.restype = ctypes.POINTER(ctypes.c_float)
    state = ctypes.c_void_p(library.begin(ctypes.byref(shape)))

    def read(token: int, position: int) -> tuple[int, float]:
        logits = library.forward(ctypes.byref(shape), pointers, state, token, position)
        return likeliest(np.ctypeslib.as_array(logits, (config.vocab,)))

    job = reading(read, config, tokens)

    def run(clock: Clock) -> list[np.ndarray[Any, Any]]:
        job.run(clock)
        return kept  # which must outlive the calls

    return Job(job.check, run)


def reading_alone(model: str, bits: int, tokens: int, threads: int) -> Job:
    """As many bytes as the weights have, summed as often as tokens are written."""
    import lantern as ln

    _, params = load(model, bits)
    size = sum(x.nbytes for x in leaves(params)) // 4
    numbers = ln.ones(size, dtype=ln.float32)
    total = ln.compile(ln.sum, threads=threads)

    def run(clock: Clock) -> None:
        for _ in range(tokens):
            total(numbers)

    return Job(lambda: [total(numbers)], run)


def reading_prompt(model: str, tokens: int) -> Job:
    """The example's decoder reads a text of one chunk."""
    from examples.llama3.decode import Decoder
    from examples.llama3.sampling import GREEDY

    config, params = load(model, 32)
    given, decoder = text(config, tokens), Decoder(params, config)

    def read() -> float:
        decoder.rewind(0, 0)
        return decoder.advance([given], [GREEDY], [0])[0].logprob

    return Job(lambda: [np.array([read()])], lambda clock: read())


def reading_prompt_in_torch(model: str, tokens: int, threads: int) -> Job:
    """Hugging Face's layout of the network in PyTorch, all tokens of a text at once."""
    import torch
    import torch.nn.functional as f

    torch.set_num_threads(threads)
    config, params = load(model, 32)
    c = config.head_dim
    given = torch.tensor(text(config, tokens))
    angles = torch.arange(tokens)[:, None] * config.rope_theta ** (-torch.arange(0, c, 2) / c)
    cosines, sines = angles.cos(), angles.sin()

    def tensor(x: Any) -> Any:
        return torch.tensor(np.asarray(x))

    embedding, last = tensor(params["embedding"]), tensor(params["norm"])
    head = embedding if config.tied else tensor(params["output"])
    layers = [{k: tensor(v) for k, v in layer.items()} for layer in params["layers"]]

    def split(x: Any) -> Any:
        return x.unflatten(-1, (-1, c)).transpose(0, 1)[None]  # [1, H, T, C]

    def turn(x: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cosines - b * sines, b * cosines + a * sines], dim=-1)

    def read() -> float:
        x = embedding[given]
        for w in layers:
            h = f.rms_norm(x, x.shape[1:], w["attention_norm"], config.norm_eps)
            q, k, v = (split(f.linear(h, w[name])) for name in ("query", "key", "value"))
            gqa = config.heads != config.kv_heads
            y = f.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True, enable_gqa=gqa)
            x = x + f.linear(y[0].transpose(0, 1).flatten(1), w["output"])
            h = f.rms_norm(x, x.shape[1:], w["ffn_norm"], config.norm_eps)
            x = x + f.linear(f.silu(f.linear(h, w["gate"])) * f.linear(h, w["up"]), w["down"])
        y = f.rms_norm(x[-1], x.shape[1:], last, config.norm_eps)
        return likeliest(f.linear(y, head).numpy())[1]

    def quiet() -> float:
        with torch.inference_mode():
            return read()

    return Job(lambda: [np.array([quiet()])], lambda clock: quiet())


def products_alone(model: str, tokens: int) -> Job:
    """The products of matrices that reading a text takes, by NumPy's BLAS."""
    config, params = load(model, 32)
    rng = np.random.default_rng(0)
    matrices = [np.asarray(w) for layer in params["layers"] for w in layer.values() if w.ndim == 2]
    head = np.asarray(params["embedding" if config.tied else "output"])
    rows = {
        w.shape[1]: rng.standard_normal((tokens, w.shape[1]), np.float32)
        for w in (*matrices, head)
    }  # fmt: skip
    out = {w.shape[0]: np.empty((tokens, w.shape[0]), np.float32) for w in matrices}

    def run(clock: Clock) -> Any:
        for w in matrices:
            np.matmul(rows[w.shape[1]], w.T, out=out[w.shape[0]])
        return head @ rows[head.shape[1]][-1]

    return Job(lambda: [np.zeros(1)], run)
