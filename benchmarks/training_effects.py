"""The effect of the initialisation on training: the classical comparison, on scikit-learn's digits.

Trains the same network from each of eight initialisations, several times, and writes under
``benchmarks/results``: ``training_effects.json`` (every loss and accuracy), ``training_effects.png`` (one
chart) and ``training_effects.md`` (the table and what it shows)::

    python benchmarks/training_effects.py [--epochs 30] [--seeds 5]

Needs the extras ``torch`` and ``plot``, and scikit-learn. Takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import initium as ini
from initium.torch.lsuv import LSUVWarning, lsuv

RESULTS = Path(__file__).parent / "results"

DEPTH, WIDTH, BATCH, RATE, MOMENTUM = 8, 100, 64, 0.02, 0.9
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
#: Initializer of all weights (biases are 0), or None for LSUV.
STARTS: dict[str, Any] = {
    "zeros": ini.zeros(),
    "ones": ini.ones(),
    "uniform [0, 1]": ini.Uniform(0.0, 1.0),
    "uniform ±1/√n": ini.one_over_sqrt_uniform(),
    "normal 1/√n": ini.one_over_sqrt_normal(),
    "Glorot uniform": ini.glorot_uniform(),
    "He normal": ini.he_normal(truncated=False),
    "LSUV": None,
}
#: Remarks on the results that are kept; check them against the table if the set-up changes.
REMARKS = """\
What it shows:

- Networks with equal weights do not learn. With zeros there is no gradient: only the bias of the output
  learns how frequent each digit is. With ones, all units of a layer stay equal and their sums explode: with
  ReLU the loss is soon not finite, and tanh saturates. Uniform on [0, 1] breaks the symmetry, but its mean of
  1/2 also makes the sums explode.
- Uniform on ±1/√n has a third of the variance that preserves a signal. After eight layers of ReLU, the signal
  is too small to learn from. With tanh, the network recovers after more than twenty epochs.
- Normal 1/√n, Glorot (the same variance for layers of equal width) and He learn. The closer the variance fits
  the nonlinearity, the faster they learn. With ReLU, He's 2/n needs half the epochs; with tanh they hardly
  differ.
- LSUV measures the variance instead of assuming it. It is as fast as the best of the others with both.
- During learning, the distribution of the weights hardly changes: training finds a solution near its start.
"""
COLOURS = ("#999999", "#000000", "#CC79A7", "#56B4E9", "#0072B2", "#009E73", "#D55E00", "#E69F00")


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return training and test images in [0, 1] and their labels."""
    data = load_digits()
    parts = train_test_split(
        data.data / 16.0, data.target, test_size=0.25, random_state=0, stratify=data.target
    )
    x_train, x_test = (torch.from_numpy(part.astype(np.float32)) for part in parts[:2])
    y_train, y_test = (torch.from_numpy(part) for part in parts[2:])
    return x_train, x_test, y_train, y_test


def network(activation: str) -> nn.Sequential:
    """Return a network of DEPTH hidden layers with torch's default weights."""
    sizes = [64, *[WIDTH] * DEPTH]
    hidden = [
        layer
        for n_in, n_out in pairwise(sizes)
        for layer in (nn.Linear(n_in, n_out), ACTIVATIONS[activation]())
    ]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 10))


def start(model: nn.Module, name: str, images: torch.Tensor, seed: int) -> None:
    """Initialise the weights of a network."""
    if STARTS[name] is not None:
        ini.init_model(model, [("*.bias", ini.zeros()), ("*.weight", STARTS[name])], seed=seed)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error", LSUVWarning)  # LSUV must converge
        lsuv(model, images[:256], seed=seed)


def train(name: str, activation: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train once; return loss and accuracy before training and after each epoch."""
    x_train, x_test, y_train, y_test = digits()
    model = network(activation)
    start(model, name, x_train, seed)
    middle = model[DEPTH // 2 * 2].weight
    before = middle.detach().numpy().ravel().copy()
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    order = torch.Generator().manual_seed(seed)
    losses, accuracies = [], []

    def measure() -> None:
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(model(x_train), y_train)))
            accuracies.append(float((model(x_test).argmax(1) == y_test).float().mean()))

    measure()
    for _ in range(epochs):
        for batch in torch.randperm(len(x_train), generator=order).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x_train[batch]), y_train[batch]).backward()
            optimizer.step()
        measure()
    return {
        "loss": losses,
        "accuracy": accuracies,
        "before": before,
        "after": middle.detach().numpy().ravel().copy(),
    }


def run(epochs: int, seeds: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Train everything: runs by activation and start."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for activation in ACTIVATIONS:
        for name in STARTS:
            runs = [train(name, activation, epochs, seed) for seed in range(seeds)]
            found.setdefault(activation, {})[name] = runs
            final = [run["accuracy"][-1] for run in runs]
            print(
                f"{activation:<5} {name:<16} accuracy {min(final):.3f} to {max(final):.3f}", file=sys.stderr
            )
    return found


# --- output -------------------------------------------------------------------------------------------------


def chart(found: dict[str, dict[str, list[dict[str, Any]]]], epochs: int) -> Figure:
    """Draw losses and accuracies by epoch, and weights before and after."""
    figure = Figure(figsize=(13, 11), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.75, 1))
    panels = upper.subplots(2, 2, sharex=True)
    for (axis_loss, axis_accuracy), (activation, starts) in zip(panels, found.items(), strict=True):
        for index, (name, runs) in enumerate(starts.items()):
            # Later curves are thinner, so that equal curves stay visible.
            style = {"color": COLOURS[index], "linewidth": 4.2 - 0.4 * index}
            loss = np.median([run["loss"] for run in runs], axis=0)
            axis_loss.plot(np.where(np.isfinite(loss), loss, np.nan), label=name, **style)
            axis_accuracy.plot(100 * np.median([run["accuracy"] for run in runs], axis=0), **style)
        axis_loss.set_yscale("log")
        axis_loss.set_ylim(1e-4, 30)
        axis_loss.set_ylabel(f"{activation}: training loss (nats)")
        axis_accuracy.set_ylim(0, 100)
        axis_accuracy.set_ylabel(f"{activation}: test accuracy (%)")
        for axis in (axis_loss, axis_accuracy):
            axis.grid(alpha=0.3)
            axis.set_xlim(0, epochs)
    for axis in panels[1]:
        axis.set_xlabel("epoch")
    handles, labels = panels[0][0].get_legend_handles_labels()
    upper.legend(handles, labels, loc="outside upper center", ncols=8, frameon=False, fontsize="small")
    activation = next(iter(found))
    for axis, (name, runs), colour in zip(
        lower.subplots(2, 4).flat, found[activation].items(), COLOURS, strict=True
    ):
        histograms(axis, runs[0], colour)
        axis.set_title(name, fontsize="small")
    lower.suptitle(
        f"{activation}: weights of hidden layer {DEPTH // 2 + 1}, outline before, filled after",
        fontsize="medium",
    )
    lower.supxlabel("weight (dimensionless)", fontsize="medium")
    lower.supylabel("weights per bin", fontsize="medium")
    return figure


def histograms(axis: Any, run: dict[str, Any], colour: str) -> None:
    """Draw the weights of one run before and after."""
    after = run["after"][np.isfinite(run["after"])]
    both = np.concatenate([run["before"], after])
    low, high = both.min(), both.max()
    bins = np.linspace(low - 0.05, high + 0.05, 3) if low == high else np.linspace(low, high, 41)
    axis.hist(after, bins=bins, color=colour, alpha=0.55)
    axis.hist(run["before"], bins=bins, color="black", histtype="step", linewidth=1.1)
    axis.tick_params(labelsize="x-small")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    if not after.size:
        axis.text(0.03, 0.85, "after: not finite", transform=axis.transAxes, fontsize="small")


def table(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Return the rows of the table, one per start."""
    lines = [
        "| start | "
        + " | ".join(f"{a}: loss | {a}: accuracy, % | {a}: epochs to 90 %" for a in found)
        + " |",
        "|---|" + "--:|--:|--:|" * len(found),
    ]
    for name in STARTS:
        cells = [cell for activation in found for cell in row(found[activation][name])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def row(runs: list[dict[str, Any]]) -> list[str]:
    """Return median final loss, median and range of final accuracy, median epochs to 90 %."""
    losses = [run["loss"][-1] if math.isfinite(run["loss"][-1]) else math.inf for run in runs]
    accuracies = sorted(100 * run["accuracy"][-1] for run in runs)
    reached = [next((e for e, a in enumerate(run["accuracy"]) if a >= 0.9), math.inf) for run in runs]
    loss, epochs = float(np.median(losses)), float(np.median(reached))
    return [
        f"{loss:.3g}" if math.isfinite(loss) else "not finite",
        f"{np.median(accuracies):.1f} ({accuracies[0]:.1f} to {accuracies[-1]:.1f})",
        f"{epochs:.0f}" if math.isfinite(epochs) else "never",
    ]


def report(found: dict[str, dict[str, list[dict[str, Any]]]], epochs: int, seeds: int) -> str:
    """Return the page: set-up, table, chart."""
    return f"""\
# The effect of the initialisation on training

Written by `python benchmarks/training_effects.py --epochs {epochs} --seeds {seeds}`.

Data: scikit-learn's digits, 1,797 images of 8 x 8; a quarter of them is the test set. Network: {DEPTH} hidden
layers of {WIDTH} units, biases 0. Training: SGD with rate {RATE}, momentum {MOMENTUM} and batches of {BATCH},
{epochs} epochs. The table has medians over {seeds} seeds, and the range of the accuracy. The loss is the
cross-entropy over the training images, in nats (ln 10 = 2.30 for guessing).

{table(found)}

![Loss and accuracy by epoch, and weights before and after training](training_effects.png)

{REMARKS}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the layers are too small for more
    found = run(options.epochs, options.seeds)
    options.output.mkdir(parents=True, exist_ok=True)
    chart(found, options.epochs).savefig(options.output / "training_effects.png", dpi=100)
    page = report(found, options.epochs, options.seeds)
    (options.output / "training_effects.md").write_text(page, encoding="utf-8")
    curves = {
        activation: {
            name: [{key: rounded(run[key]) for key in ("loss", "accuracy")} for run in runs]
            for name, runs in starts.items()
        }
        for activation, starts in found.items()
    }
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sklearn": sklearn.__version__,
    }
    document = {"versions": {**versions, "initium": ini.__version__}, "runs": curves}
    (options.output / "training_effects.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


def rounded(values: list[float]) -> list[float | None]:
    """Return values with six digits; values that are not finite become null in JSON."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


if __name__ == "__main__":
    main()
