"""A scaling law from a few small models (section 3.2.1).

For each of some compute budgets, models of several sizes are trained, each on as many tokens as the
budget allows: an IsoFLOP curve. A parabola of the loss over the logarithm of the tokens finds the
curve's lowest point, the compute-optimal model. The optima of all budgets C give the laws

    tokens N*(C) = A C^alpha        loss L(C) = B C^-beta

of which a larger budget's model and its loss are read off. How sure that is, a bootstrap tells: the
points' distances from their parabolas are dealt out anew, many times, and all is fitted again.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.display import picture
from examples.llama3.files import Problem, write_atomically

RUNS, CURVES, REPORT = "runs.csv", "scaling.png", "scaling.md"
DRAWS = 400  # of the bootstrap
RANGE = (5, 95)  # percentiles that are reported


@dataclass(frozen=True)
class Run:
    """A model that was trained.

    Attributes:
        budget: the arithmetic that it was meant to take, in FLOPs.
        dim, layers: its shape.
        parameters: how many it multiplies by.
        tokens: that it was trained on.
        flops: what that took, as `utilisation` counts.
        loss: in the end, in bits for each byte of held-out text.
        seconds: of training.
        check: whether it is not fitted, but checks what was.
    """

    budget: float
    dim: int
    layers: int
    parameters: int
    tokens: int
    flops: float
    loss: float
    seconds: float
    check: bool = False


class Optimum(NamedTuple):
    """The lowest point of an IsoFLOP curve."""

    budget: float
    tokens: float
    loss: float


class Power(NamedTuple):
    """y = factor x^exponent."""

    factor: float
    exponent: float

    def __call__(self, x: Any) -> Any:
        return self.factor * x**self.exponent

    @staticmethod
    def fit(x: Sequence[float], y: Sequence[float]) -> Power:
        """The least squares of logarithms.

        Example:
            >>> law = Power.fit([1.0, 10.0, 100.0], [3.0, 30.0, 300.0])
            >>> round(law.factor, 6), round(law.exponent, 6)
            (3.0, 1.0)
        """
        exponent, constant = np.polyfit(np.log(x), np.log(y), 1)
        return Power(float(np.exp(constant)), float(exponent))


class Law(NamedTuple):
    """What a budget should be spent on, and what comes of it."""

    tokens: Power
    loss: Power


class Spread(NamedTuple):
    """A number and the range that the bootstrap gives it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


# Fitting ------------------------------------------------------------------------------------------


def curves(runs: Sequence[Run]) -> dict[float, list[Run]]:
    """The runs that are fitted, by budget, from small to large."""
    fitted = [r for r in runs if not r.check]
    return {b: [r for r in fitted if r.budget == b] for b in sorted({r.budget for r in fitted})}


def parabola(tokens: Any, losses: Any) -> np.ndarray:
    """Coefficients of the loss over the logarithm of the tokens, the highest power first."""
    return np.polyfit(np.log(tokens), losses, 2)


def optimum(budget: float, tokens: Any, losses: Any) -> Optimum | None:
    """Where a budget's parabola is lowest; None where it is not so among the sizes that were
    tried: then the best size is not known."""
    if len(tokens) < 3:
        return None
    a, b, c = parabola(tokens, losses)
    if a <= 0:
        return None
    lowest = -b / (2 * a)
    if not np.log(min(tokens)) <= lowest <= np.log(max(tokens)):
        return None
    return Optimum(budget, float(np.exp(lowest)), float(c - b * b / (4 * a)))


def optima(runs: Sequence[Run], losses: dict[float, np.ndarray] | None = None) -> list[Optimum]:
    """The optima that are known, from small budgets to large; perhaps with other losses."""
    found = (
        optimum(b, [r.tokens for r in rs], [r.loss for r in rs] if losses is None else losses[b])
        for b, rs in curves(runs).items()
    )
    return [o for o in found if o is not None]


def law(best: Sequence[Optimum]) -> Law | None:
    """The laws that optima follow; None where there are fewer than two."""
    if len(best) < 2:
        return None
    budgets = [o.budget for o in best]
    return Law(
        Power.fit(budgets, [o.tokens for o in best]), Power.fit(budgets, [o.loss for o in best])
    )


def bootstrap(runs: Sequence[Run], seed: int = 0, draws: int = DRAWS) -> list[Law]:
    """The laws of losses that were drawn anew: each curve's parabola, and its points' distances
    from it, dealt out with replacement. Draws whose optima are not known are left out."""
    rng = np.random.default_rng(seed)
    fits: dict[float, tuple[np.ndarray, np.ndarray]] = {}
    for budget, some in curves(runs).items():
        if len(some) > 3:
            tokens, losses = [r.tokens for r in some], np.array([r.loss for r in some])
            fitted = np.polyval(parabola(tokens, losses), np.log(tokens))
            # A parabola through n points takes up three of their freedoms.
            fits[budget] = fitted, (losses - fitted) * np.sqrt(len(some) / (len(some) - 3))
    known = [r for r in runs if r.budget in fits]
    found = []
    for _ in range(draws):
        drawn = {b: fit + rng.choice(left, len(left)) for b, (fit, left) in fits.items()}
        if (one := law(optima(known, drawn))) is not None:
            found.append(one)
    return found


def spread(value: float, drawn: Sequence[float]) -> Spread:
    """A number with its range, which is unknown where nothing could be drawn."""
    low, high = np.percentile(drawn, RANGE) if drawn else (np.nan, np.nan)
    return Spread(value, float(low), float(high))


# Files --------------------------------------------------------------------------------------------


def save_runs(path: Path, runs: Sequence[Run]) -> None:
    """Write the runs as CSV, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([f.name for f in dataclasses.fields(Run)])
    table.writerows([repr(v) for v in dataclasses.astuple(r)] for r in runs)
    write_atomically(path, lambda p: p.write_text(text.getvalue()))


def read_runs(path: Path) -> list[Run]:
    """The inverse; nothing where there is no file.

    Raises:
        Problem: a line is not what `save_runs` writes.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        table = csv.reader(file)
        try:
            names = next(table, [])
            return [parsed(dict(zip(names, row, strict=True))) for row in table]
        except (KeyError, ValueError, csv.Error) as problem:
            raise Problem(
                f"{path}, line {table.line_num}, is no run of a scaling study ({problem}); remove "
                "the file to begin anew"
            ) from None


def parsed(row: dict[str, str]) -> Run:
    """A run of what a line has in each column."""
    kinds: dict[str, Any] = {"int": int, "float": float, "bool": lambda text: text == "True"}
    return Run(**{f.name: kinds[str(f.type)](row[f.name]) for f in dataclasses.fields(Run)})


def write_report(folder: Path, runs: Sequence[Run], target: float) -> Path:
    """Write the law as Markdown, and a picture of it.

    Args:
        folder: where.
        runs: that were trained.
        target: a larger budget to predict.

    Raises:
        Problem: matplotlib is not installed.
    """
    best, drawn = optima(runs), bootstrap(runs)
    found = law(best)
    draw(folder / CURVES, runs, found, drawn, target)
    lines = [
        "# Scaling", "", f"![IsoFLOP curves and the law]({CURVES})", "",
        *law_lines(runs, found, drawn), "", *prediction_lines(runs, found, drawn, target), "",
        "| budget, FLOPs | width | layers | parameters | tokens | bits per byte | seconds |",
        "|" + "---|" * 7,
        *(
            f"| {r.budget:.3g}{' (check)' * r.check} | {r.dim} | {r.layers} | {r.parameters:,} | "
            f"{r.tokens:,} | {r.loss:.4f} | {r.seconds:.1f} |"
            for r in runs
        ),
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    write_atomically(folder / REPORT, lambda p: p.write_text(text, encoding="utf-8"))
    return folder / REPORT


def law_lines(runs: Sequence[Run], found: Law | None, drawn: Sequence[Law]) -> list[str]:
    """What was found, and what was not, as text."""
    known = {o.budget: o for o in optima(runs)}
    lines = []
    for budget in curves(runs):
        if budget in known:
            o = known[budget]
            lines.append(f"- {budget:.3g} FLOPs: best {o.loss:.4f} with {o.tokens:,.0f} tokens")
        else:
            lines.append(
                f"- {budget:.3g} FLOPs: the best size is not among those that were tried, so this "
                "budget is left out"
            )
    if found is None:
        return [*lines, "", "No law: it takes the optima of two budgets."]
    alpha = spread(found.tokens.exponent, [d.tokens.exponent for d in drawn])
    beta = spread(-found.loss.exponent, [-d.loss.exponent for d in drawn])
    return [
        *lines,
        "",
        f"Tokens of the optimum: {found.tokens.factor:.4g} C^alpha, alpha = {alpha}.",
        f"Loss of the optimum: {found.loss.factor:.4g} C^-beta, beta = {beta}.",
        f"Ranges: {RANGE[0]} to {RANGE[1]} % of {len(drawn)} draws of a bootstrap. (Llama 3 found "
        "alpha = 0.53 with budgets of 6e18 to 1e22.)",
    ]


def prediction_lines(
    runs: Sequence[Run], found: Law | None, drawn: Sequence[Law], target: float
) -> list[str]:
    """What the law says of a larger budget, and what a run there found."""
    if found is None:
        return []
    loss = spread(found.loss(target), [d.loss(target) for d in drawn])
    tokens = spread(found.tokens(target), [d.tokens(target) for d in drawn])
    lines = [f"Predicted for {target:.3g} FLOPs: {loss} bits per byte after {tokens} tokens."]
    for r in (r for r in runs if r.check):
        error = r.loss / float(found.loss(r.flops)) - 1
        lines.append(
            f"Checked: {r.parameters:,} parameters reach {r.loss:.4f} after {r.tokens:,} tokens, "
            f"{abs(error):.1%} {'above' if error > 0 else 'below'} the prediction."
        )
    return lines


def draw(
    path: Path, runs: Sequence[Run], found: Law | None, drawn: Sequence[Law], target: float
) -> None:
    """The IsoFLOP curves with their parabolas, and both laws over the budgets."""
    with picture(path, 13, 4) as figure:
        left, middle, right = figure.subplots(1, 3)
        for budget, some in curves(runs).items():
            tokens, losses = np.array([r.tokens for r in some]), [r.loss for r in some]
            (points,) = left.plot(tokens, losses, "o", label=f"{budget:.2g} FLOPs")
            if len(some) > 2:
                x = np.geomspace(tokens.min(), tokens.max(), 100)
                y = np.polyval(parabola(tokens, losses), np.log(x))
                left.plot(x, y, color=points.get_color())
        best = optima(runs)
        left.plot([o.tokens for o in best], [o.loss for o in best], "k*", label="optimum")
        left.set(xscale="log", xlabel="tokens", ylabel="bits per byte", title="IsoFLOP curves")
        checks = [r for r in runs if r.check]
        middle.plot([o.budget for o in best], [o.tokens for o in best], "k*")
        right.plot([o.budget for o in best], [o.loss for o in best], "k*", label="optimum")
        right.plot([r.flops for r in checks], [r.loss for r in checks], "C3o", label="check")
        if found is not None:
            x = np.geomspace(best[0].budget, target, 50)
            for axes, name in ((middle, "tokens"), (right, "loss")):
                axes.plot(x, getattr(found, name)(x), "C0")
                if drawn:
                    each = [getattr(d, name)(x) for d in drawn]
                    low, high = np.percentile(each, RANGE, axis=0)
                    axes.fill_between(x, low, high, color="C0", alpha=0.2)
        middle.set(xlabel="FLOPs", ylabel="tokens", title="tokens of the optimum")
        right.set(xlabel="FLOPs", ylabel="bits per byte", title="loss of the optimum")
        if best:  # what is empty has no logarithmic scale
            middle.set(xscale="log", yscale="log")
            right.set(xscale="log")
        for axes in (left, middle, right):
            axes.grid(alpha=0.3)
        for axes in (left, right):
            axes.legend()
