"""Every setting, once: its default, its meaning, and from both the command line's options."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, get_type_hints

from examples.llama3.files import Problem


def setting(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field that `add_settings` turns into an option. ``free=True``: what is learnt
    does not depend on it, so that a run may go on with another one."""
    return field(default=default, metadata={"help": help, **more})


def at_least(settings: Any, least: int, *names: str) -> None:
    """Refuse settings, or options of a command line, that are too small."""
    for name in names:
        if getattr(settings, name) < least:
            raise Problem(
                f"--{dashed(name)} is {getattr(settings, name)}; it must be at least {least}"
            )


def positive(settings: Any, *names: str) -> None:
    """Refuse settings that are no positive numbers."""
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise Problem(f"--{dashed(name)} is {getattr(settings, name)}; it must be positive")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for a context longer than that of the first training.

    What turns less than ``low`` times within ``original`` positions is slowed down ``factor``
    times; what turns more than ``high`` times stays; between, it is interpolated. Transformers
    calls this type "llama3".
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def check(self) -> None:
        """Refuse values that mean nothing."""
        if not (1 <= self.factor < math.inf and 0 < self.low < self.high < math.inf):
            raise Problem(
                f"the rope scaling has factor {self.factor}, low {self.low} and high {self.high}; "
                "expected a factor of at least 1, and 0 < low < high"
            )
        if self.original < 1:
            raise Problem(f"the rope scaling's original context is {self.original}, not positive")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the network (section 3.2, table 3)."""

    vocab: int = field(metadata={"derived": True})  # what the tokenizer says
    dim: int = setting(256, "width of the residual stream")
    layers: int = setting(2, "number of transformer blocks")
    heads: int = setting(8, "query heads")
    kv_heads: int = setting(2, "key and value heads, each shared by heads/kv-heads queries (GQA)")
    head_width: int = setting(0, "numbers in a head; 0: dim/heads")
    ffn: int = setting(704, "width inside the SwiGLU feed-forward")
    context: int = setting(128, "tokens in a training sequence")
    rope_theta: float = setting(500_000.0, "base of the rotary frequencies")
    rope_scaling: RopeScaling | None = field(default=None, metadata={"derived": True})
    norm_eps: float = setting(1e-5, "epsilon of RMSNorm")
    tied: bool = setting(True, "use the embedding table as the output layer too")

    @property
    def head_dim(self) -> int:
        """The numbers in a head."""
        return self.head_width or self.dim // self.heads

    def check(self) -> None:
        """Refuse shapes that do not fit together, and values that mean nothing."""
        at_least(self, 1, "dim", "layers", "heads", "kv_heads", "ffn", "context")
        if self.head_width < 0 or self.head_width % 2:
            raise Problem(
                f"--head-width is {self.head_width}; rotary embedding needs an even number"
            )
        if not self.head_width and (self.dim % self.heads or self.head_dim % 2):
            raise Problem(
                f"--dim {self.dim} over --heads {self.heads} gives heads of "
                f"{self.dim / self.heads:g} numbers; rotary embedding needs an even whole number"
            )
        if self.heads % self.kv_heads:
            raise Problem(
                f"--heads {self.heads} is not a multiple of --kv-heads {self.kv_heads}: each key "
                "and value head serves a whole number of query heads"
            )
        positive(self, "rope_theta", "norm_eps")
        if self.rope_scaling is not None:
            self.rope_scaling.check()

    @staticmethod
    def from_json(data: dict[str, Any]) -> ModelConfig:
        """The inverse of `dataclasses.asdict`."""
        scaling = data.get("rope_scaling")
        return ModelConfig(**{**data, "rope_scaling": scaling and RopeScaling(**scaling)})


@dataclass(frozen=True)
class LearnConfig:
    """How to learn (section 3.4), whatever from."""

    valid_fraction: float = setting(
        0.05, "share of the text held out for validation, whole documents"
    )
    seed: int = setting(0, "seed of the split, the initial parameters and the order of the data")
    batch: int = setting(8, "sequences in a step")
    accumulate: int = setting(
        1, "compute a step in so many parts, whose gradients are summed: the same step in the "
        "memory of a part"
    )  # fmt: skip
    steps: int = setting(1000, "steps to train; the learning rate is annealed to the end of them")
    lr: float = setting(2e-3, "peak learning rate")
    warmup: float = setting(0.05, "share of the steps over which the learning rate rises")
    final_lr: float = setting(0.02, "learning rate at the end, as a share of the peak")
    weight_decay: float = setting(0.1, "AdamW's decoupled weight decay, on matrices only")
    beta1: float = setting(0.9, "AdamW's decay of the gradient's mean")
    beta2: float = setting(0.95, "AdamW's decay of the gradient's square")
    clip: float = setting(1.0, "largest global norm of the gradient; 0: any")
    threads: int = setting(
        0, "threads; 0: one for each core or, with --minutes, one if that is faster, as on a busy "
        "machine"
    )  # fmt: skip
    eager: bool = setting(
        False, "run operation by operation on NumPy, rather than each step as one native program"
    )
    bf16: bool = setting(
        False, "compute in bfloat16; parameters, gradients and AdamW's state stay float32"
    )
    validate_every: int = setting(50, "steps between validations")
    validation_sequences: int = setting(32, "sequences of held-out text in a validation")
    save_every: int = setting(200, "steps between checkpoints")
    checkpoint: int = setting(
        0, "keep what so many blocks compute only at their end, and compute the rest again on the "
        "way back, for less memory; 0: keep all"
    )  # fmt: skip
    tensorboard: bool = setting(False, "log for TensorBoard too, in the run's folder", free=True)
    keep: int = setting(3, "checkpoints that are kept, the newest ones", free=True)

    def check(self) -> None:
        """Refuse values that mean nothing."""
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise Problem(f"--{dashed(name)} is {value}; it must be a finite number")
        at_least(
            self, 1, "batch", "accumulate", "steps", "validate_every", "validation_sequences",
            "save_every", "keep",
        )  # fmt: skip
        if self.batch % self.accumulate:
            raise Problem(
                f"--batch {self.batch} is not a multiple of --accumulate {self.accumulate}: a step "
                "is computed in equal parts"
            )
        for name, low, high in (
            ("valid_fraction", 0.0, 0.5), ("warmup", 0.0, 1.0), ("final_lr", 0.0, 1.0),
            ("beta1", 0.0, 1.0), ("beta2", 0.0, 1.0),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise Problem(
                    f"--{dashed(name)} is {getattr(self, name)}; it must lie between {low:g} and "
                    f"{high:g}"
                )
        positive(self, "lr")
        for name in ("weight_decay", "clip", "seed", "threads", "checkpoint"):
            if not getattr(self, name) >= 0:
                raise Problem(f"--{dashed(name)} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True)
class TrainConfig(LearnConfig):
    """What to train on and how (sections 3.1 and 3.4)."""

    data: tuple[str, ...] = setting(
        (), "text files (UTF-8), one document each, or .jsonl files, a document in each line's "
        '"text"; or one folder that `tokenise` wrote; default: Python\'s standard library',
        many=True,
    )  # fmt: skip
    tokenizer: str = setting(
        "bpe", "tokens: a BPE trained on the data, or bytes", choices=("bpe", "bytes")
    )
    bpe_vocab: int = setting(2048, "size of the BPE's vocabulary")
    minutes: float = setting(
        0.0, "train for about so long instead: a few steps are timed first and set --steps"
    )
    init: str = setting(
        "", "begin with the weights, the shape and the tokenizer of this model: a folder of a run, "
        "of Hugging Face or of Meta, or a .gguf file; --context may differ"
    )  # fmt: skip
    rope_scaling_factor: float = setting(
        1.0, "with --init: stretch the rotary frequencies for a context so many times that of the "
        "model's first training"
    )  # fmt: skip

    def check(self) -> None:
        """Refuse values that mean nothing."""
        super().check()
        if not self.minutes >= 0:
            raise Problem(f"--minutes is {self.minutes}; it must not be negative")
        if not self.init and self.rope_scaling_factor != 1:
            raise Problem("--rope-scaling-factor is for a model that --init names")


@dataclass(frozen=True)
class TuneConfig(LearnConfig):
    """What to fine-tune, on which chats, and how (section 4.1.3)."""

    valid_fraction: float = setting(0.1, "share of the chats held out for validation")
    seed: int = setting(0, "seed of the split, of LoRA's matrices and of the order of the chats")
    batch: int = setting(4, "rows in a step")
    steps: int = setting(100, "steps to train; the learning rate is annealed to the end of them")
    lr: float = setting(1e-4, "peak learning rate")
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay, on matrices only")
    beta2: float = setting(0.99, "AdamW's decay of the gradient's square")
    clip: float = setting(
        0.0, "largest global norm of the gradient, for which all of it must be held at once; 0: any"
    )  # fmt: skip
    validate_every: int = setting(20, "steps between validations")
    save_every: int = setting(100, "steps between checkpoints")
    threads: int = setting(0, "threads; 0: one for each core")
    validation_sequences: int = setting(32, "rows of held-out chats in a validation")
    model: str = setting("", "the model to begin with, as of `chat`; default: SmolLM2-135M")
    data: tuple[str, ...] = setting((), "files of chats, one in each line", many=True)
    skip_bad_lines: bool = setting(
        False, "report lines that are no chat, and leave them out, rather than stop at the first"
    )
    row: int = setting(256, "tokens in a row, into which several chats are packed")
    lora: int = setting(0, "learn a change of this rank to each matrix; 0: learn all parameters")
    alpha: float = setting(16.0, "LoRA's change is multiplied by alpha/rank")
    questions: int = setting(
        64, "held-out chats whose last answer is written greedily, before and after, and compared"
    )

    def check(self) -> None:
        """Refuse values that mean nothing."""
        super().check()
        at_least(self, 2, "row")
        for name in ("lora", "questions"):
            if getattr(self, name) < 0:
                raise Problem(f"--{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True)
class Settings:
    """Those of a run: what a checkpoint stores and `--resume` compares.

    Attributes:
        command: of the command line, that makes such runs and goes on with them.
    """

    command: ClassVar[str]
    model: ModelConfig
    train: LearnConfig

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            Problem: a setting is missing or unknown (another version of this program wrote it).
        """
        try:
            train = dict(data["train"])
            train["data"] = tuple(train["data"])
            return cls(ModelConfig.from_json(data["model"]), get_type_hints(cls)["train"](**train))
        except (KeyError, TypeError) as problem:
            raise Problem(f"settings of another version of this program: {problem}") from None


@dataclass(frozen=True)
class Config(Settings):
    """The settings of a run that trains."""

    command: ClassVar[str] = "train"
    train: TrainConfig


@dataclass(frozen=True)
class Tuning(Settings):
    """The settings of a run that fine-tunes."""

    command: ClassVar[str] = "finetune"
    train: TuneConfig


# What `python -m examples.llama3 demo` changes. Reading the text and sampling take a quarter of a
# minute besides. The shape above was chosen by measurement for such a short run: after as much
# computation on the same text, two layers of width 256 reach 2.12 bits per byte on held-out text,
# four of width 192 reach 2.22; vocabularies of 1,024 and 512 tokens, and bytes, learn more slowly.
DEMO: dict[str, Any] = {"minutes": 2.6}
DEMO_PROMPT = "class Stack:\n    def __init__(self"


def dashed(name: str) -> str:
    """A setting's name as an option writes it."""
    return name.replace("_", "-")


def add_settings(
    parser: argparse.ArgumentParser, kind: type, title: str, names: Sequence[str] = ()
) -> None:
    """One option for each setting of a dataclass, or for some of them by name; one not given stays
    absent from the result."""
    group = parser.add_argument_group(title)
    for f in dataclasses.fields(kind):
        about = f.metadata
        if about.get("derived") or (names and f.name not in names):
            continue
        common: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS}
        if about.get("many"):
            group.add_argument(
                f"--{dashed(f.name)}", nargs="+", metavar="FILE", help=about["help"], **common
            )
        elif isinstance(f.default, bool):
            common["action"] = argparse.BooleanOptionalAction
            group.add_argument(
                f"--{dashed(f.name)}", help=f"{about['help']} (default: {f.default})", **common
            )
        else:
            if "choices" in about:
                common["choices"] = about["choices"]
            else:
                common["metavar"] = "N" if isinstance(f.default, int) else "X"
            group.add_argument(
                f"--{dashed(f.name)}", type=type(f.default),
                help=f"{about['help']} (default: {f.default:g})"
                if isinstance(f.default, (int, float))
                else about["help"] + (f" (default: {f.default})" if f.default else ""),
                **common,
            )  # fmt: skip
