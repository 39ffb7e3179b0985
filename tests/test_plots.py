"""Pictures: what they show is what is drawn from, and no text is cut off."""

import math
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

import initium as ini
from initium import plots
from initium.cli.main import main
from initium.plots import ACTIVATIONS, plot_histograms, plot_signal, plot_spread, signal


def assert_nothing_is_cut_off(figure):
    """Everything that is drawn, in inches, lies within the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, size = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    assert drawn.xmin >= -0.01
    assert drawn.ymin >= -0.01
    assert drawn.xmax <= size[0] + 0.01
    assert drawn.ymax <= size[1] + 0.01


def labels(figure):
    found = {text.get_text() for text in figure.texts}
    for axis in figure.axes:
        found |= {axis.get_xlabel(), axis.get_ylabel(), axis.get_title()}
    return {figure.get_supxlabel(), figure.get_supylabel()} | found


FIGURES = {
    "spread": lambda: plot_spread(),
    "spread of five": lambda: plot_spread(
        ["he_normal", "caffe_msra", "tf_xavier", "kwon_tanh", "orthogonal"]
    ),
    "std of one": lambda: plot_spread([("mine", ini.Normal(0, 0.02))], quantity="std", fan_in=range(1, 11)),
    "histograms": lambda: plot_histograms(
        {f"a.very.long.name.of.a.tensor.in.layer.{i}.weight": ini.normal((50, 9), seed=i) for i in range(5)}
    ),
    "signal": lambda: plot_signal(depth=5, width=16, batch=8),
    "one signal": lambda: plot_signal(["he_normal"], ["relu"], depth=5, width=16, batch=8),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_text_is_whole_and_axes_are_labelled(make):
    figure = make()
    assert_nothing_is_cut_off(figure)
    assert any("weight" in label or "variance" in label for label in labels(figure))
    assert any(
        "fan_in (inputs per unit)" in x or "dimensionless" in x or x == "layer" for x in labels(figure)
    )


def test_negative_control_a_long_title_is_noticed():
    figure = plot_spread(["he_normal"], fan_in=[1, 2])
    figure.axes[0].set_title("x" * 300)
    with pytest.raises(AssertionError):
        assert_nothing_is_cut_off(figure)


# --- spread -------------------------------------------------------------------------------------------------


def reaches(axis):
    """Half-widths of the bars of a panel."""
    (bars,) = [c for c in axis.collections if hasattr(c, "get_segments")]
    return [abs(segment[1][1] - segment[0][1]) / 2 for segment in bars.get_segments()]


def test_bars_are_the_bounds():
    figure = plot_spread(["one_over_sqrt_uniform", "he_normal", "caffe_msra"], fan_in=[1, 4, 100], fan_out=4)
    uniform, truncated, normal = figure.axes
    assert reaches(uniform) == pytest.approx([1, 0.5, 0.1])
    cut = 2 * math.sqrt(2) / 0.87962566103423978
    assert reaches(truncated) == pytest.approx([cut, cut / 2, cut / 10])
    assert reaches(normal) == pytest.approx([3 * math.sqrt(2 / n) for n in (1, 4, 100)])
    assert "3 std: no bound" in normal.get_title()


def test_bars_are_stds_and_follow_fan_out():
    figure = plot_spread(["glorot_uniform"], fan_in=[1, 7], fan_out=9, quantity="std")
    assert reaches(figure.axes[0]) == pytest.approx([math.sqrt(2 / 10), math.sqrt(2 / 16)])


@pytest.mark.parametrize("layout", ["in_out", ini.Layout(0, 1), ini.Layout(-2, -1), ini.Layout(1, 0)])
def test_fan_in_is_that_of_the_layout(layout):
    scaling = ini.VarianceScaling(distribution="normal", layout=layout)
    figure = plot_spread([("mine", scaling)], fan_in=[1, 7], fan_out=9, quantity="std")
    assert reaches(figure.axes[0]) == pytest.approx([1, 1 / math.sqrt(7)])


# --- histograms ---------------------------------------------------------------------------------------------


def test_histograms_of_reports_modules_and_mappings():
    report = ini.init_model({"a.w": (30, 20), "b.w": 5}, ini.Normal(0, 0.5), seed=1, dtype="bfloat16")
    module = nn.Linear(30, 20)
    for weights in (report, report.weights, module, dict(module.named_parameters())):
        figure = plot_histograms(weights, bins=7)
        assert len(figure.axes) == 2
        counts = [sum(patch.get_height() for patch in axis.patches) for axis in figure.axes]
        assert counts == (
            [600, 5] if not isinstance(weights, nn.Module) and "a.w" in str(weights) else [600, 20]
        )
    title = plot_histograms(report).axes[0].get_title()
    assert re.fullmatch(r"a\.w\nmean -?0\.\d+, std 0\.\d+", title)
    assert float(title.split()[-1]) == pytest.approx(0.5, abs=0.05)


def test_histograms_of_integers_that_are_no_numbers():
    figure = plot_histograms({"w": np.array([1.0, np.nan, np.inf, 2.0])}, bins=2)
    assert [patch.get_height() for patch in figure.axes[0].patches] == [1, 1]


# --- signal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives(name):
    z = np.linspace(-4, 4, 81) + 0.013
    value, slope = ACTIVATIONS[name](z)
    up, down = (ACTIVATIONS[name](z + h)[0] for h in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (up - down) / 2e-5, atol=1e-6)
    peer = {"linear": lambda t: t, "gelu": lambda t: nn.functional.gelu(t, approximate="tanh")}.get(
        name, getattr(torch, name, None) or getattr(nn.functional, name)
    )
    np.testing.assert_allclose(value, peer(torch.from_numpy(z)).numpy(), atol=1e-12)


def test_gradients_are_those_of_torch():
    initializer, depth, width, batch = ini.he_normal(), 6, 24, 16
    run = signal(initializer, "tanh", depth=depth, width=width, batch=batch, seed=3)
    states = [torch.from_numpy(ini.normal((batch, width), seed=3, name="inputs").astype(np.float64))]
    states[0].requires_grad_()
    for layer in range(depth):
        weight = ini.initialize(initializer, (width, width), seed=3, name=f"layers.{layer}.weight")
        states.append(torch.tanh(states[-1] @ torch.from_numpy(weight.astype(np.float64)).T))
        states[-1].retain_grad()
    states[-1].backward(
        torch.from_numpy(ini.normal((batch, width), seed=3, name="gradients").astype(np.float64))
    )
    assert run.activations == pytest.approx([float(s.detach().var(correction=0)) for s in states], rel=1e-9)
    assert run.gradients == pytest.approx([float(s.grad.var(correction=0)) for s in states], rel=1e-9)


@pytest.mark.parametrize(
    ("initializer", "activation", "low", "high"),
    [
        (ini.he_normal(), "relu", 0.05, 20),  # holds
        (ini.Orthogonal(), "linear", 0.99, 1.01),
        (ini.one_over_sqrt_uniform(), "relu", 0, 1e-15),  # shrinks
        (ini.Normal(0, 1), "relu", 1e30, math.inf),  # explodes
    ],
)
def test_signals_hold_shrink_and_explode(initializer, activation, low, high):
    run = signal(initializer, activation, depth=50, width=100, batch=64)
    assert low <= run.activations[-1] / run.activations[0] <= high
    assert low <= run.gradients[0] / run.gradients[-1] <= high


# --- bad input, command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_spread(["he"]), "initializer='he' is unknown; expected one of zeros, ones"),
        (lambda: plot_spread([]), "initializers is empty"),
        (lambda: plot_spread(fan_in=[]), "fan_in is empty"),
        (lambda: plot_spread(fan_in=[0]), "fan_in=0 is too small"),
        (lambda: plot_spread(quantity="range"), "quantity='range' is unknown; expected one of bounds, std"),
        (lambda: plot_histograms({}), "weights holds no values"),
        (lambda: plot_histograms({"a": np.zeros(3)}, bins=0), "bins=0 is too small"),
        (lambda: plot_signal(activations=["relux"]), "activation='relux' is unknown; expected one of linear"),
        (lambda: plot_signal(activations=[]), "activations is empty"),
        (lambda: signal(ini.he_normal(), "relu", depth=0), "depth=0 is too small"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match="weights is a int; expected a mapping"):
        plot_histograms(3)


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def is_picture(path):
    start = path.read_bytes()[:200]
    return start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<?xml" in start


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("spread",),
        ("spread", "--init", "he_uniform", "--init", "caffe_msra", "--quantity", "std", "--fan-in", 20),
        ("signal", "--init", "orthogonal", "--activation", "silu", "--depth", 4, "--width", 8),
    ],
)
def test_commands(tmp_path, suffix, arguments):
    path = tmp_path / f"picture{suffix}"
    result = run("plot", *arguments, "-o", path)
    assert result.exit_code == 0, result.output
    assert is_picture(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_of_a_checkpoint(tmp_path, dtype):
    from safetensors.torch import save_file

    weights = {f"h.{i}.weight": torch.randn(20, 30).to(getattr(torch, dtype)) for i in range(4)}
    save_file(weights, tmp_path / "model.safetensors")
    path = tmp_path / "layers.png"
    result = run(
        "plot", "layers", tmp_path / "model.safetensors", "--match", "*.weight", "--limit", 3, "-o", path
    )
    assert result.exit_code == 0, result.output
    assert is_picture(path)
    assert "3 of 4 tensors" in result.output
    result = run("plot", "layers", tmp_path / "model.safetensors", "--match", "x*", "-o", path)
    assert "no tensor name matches 'x*'" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("spread", "-o", "x.gif"),
            "'x.gif' is not a picture file; expected a name that ends in .png, .svg, .pdf",
        ),
        (("spread", "--init", "foo", "-o", "x.png"), "initializer='foo' is unknown"),
        (("signal", "--activation", "foo", "-o", "x.png"), "activation='foo' is unknown"),
        (("layers", "gone.safetensors", "-o", "x.png"), "gone.safetensors"),
        (("spread", "-o", "no/such/folder/x.png"), "No such file"),
    ],
)
def test_bad_commands(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("plot", *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_an_interrupted_picture_leaves_nothing(tmp_path, monkeypatch):
    def broken(**_):
        class Broken:
            def savefig(self, file, **_):
                file.write(b"half")
                raise OSError(28, "No space left on device")

        return Broken()

    monkeypatch.setattr(plots, "plot_spread", broken)
    result = run("plot", "spread", "-o", tmp_path / "x.png")
    assert "No space left" in result.output
    assert not list(tmp_path.iterdir())
