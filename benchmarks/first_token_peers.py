"""Other libraries that continue a text by one token: what `benchmarks.first_token` starts.

python -m benchmarks.first_token_peers LIBRARY MODEL TEXT THREADS
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def llama_cpp(model: str, text: str, threads: int) -> str:
    """The likeliest token after a text, by llama.cpp, of a GGUF file."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # compiled, without types
    how = xllamacpp.CommonParams()
    how.model.path = model
    how.n_ctx, how.n_parallel, how.verbosity, how.warmup = 256, 1, 0, False
    how.cpuparams.n_threads = how.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(how)
    answer = server.handle_completions({"prompt": text, "n_predict": 1, "temperature": 0})
    return answer["choices"][0]["text"]


def transformers(model: str, text: str, threads: int) -> str:
    """The same by transformers, of a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    words: Any = AutoTokenizer.from_pretrained(model)
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        logits = network(**words(text, return_tensors="pt"), logits_to_keep=1).logits
    return words.decode(logits[0, -1].argmax())


PEERS = {"llama_cpp": llama_cpp, "transformers": transformers}

if __name__ == "__main__":
    _, library, where, beginning, count = sys.argv
    print(PEERS[library](where, beginning, int(count)), end="", flush=True)
