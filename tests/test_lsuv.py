"""LSUV on real networks and real data."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from initium.torch.lsuv import LSUVWarning, lsuv


@pytest.fixture(scope="module")
def digits():
    return torch.from_numpy(load_digits().data[:256].astype(np.float32) / 16)


class Branches(nn.Module):
    """Layers defined in another order than data passes them; a residual branch; a layer that is not used."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(50, 10)
        self.unused = nn.Linear(3, 3)
        self.convolution = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.ModuleList([nn.Linear(512, 50), nn.Linear(50, 50)])
        self.drop = nn.Dropout(0.5)

    def forward(self, x, scale=1.0):
        x = torch.relu(self.norm(self.convolution(x.view(-1, 1, 8, 8) * scale)))
        x = torch.tanh(self.inner[0](self.drop(x.flatten(1))))
        return self.last(x + torch.relu(self.inner[1](x)))


def deep(width=80, depth=20):
    layers = [nn.Linear(64, width)]
    for _ in range(depth):
        layers += [nn.ReLU(), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, 10))


def variances(module, layers, *inputs):
    """Variances of outputs, measured apart from the code under test."""
    found = {}

    def hook(name):
        def note(layer, inputs, output):
            found.setdefault(name, float(output.var(correction=0)))

        return note

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers]
    training = module.training
    with torch.no_grad():
        module.eval()(*inputs)
    module.train(training)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("make", [deep, Branches])
@pytest.mark.parametrize("tolerance", [0.1, 0.001])
def test_every_output_has_unit_variance(make, tolerance, digits):
    torch.manual_seed(0)
    module = make()
    report = lsuv(module, digits, seed=1, tolerance=tolerance)
    measured = variances(module, [(d.name, module.get_submodule(d.name)) for d in report.layers], digits)
    assert report.converged
    for done in report.layers:
        assert abs(measured[done.name] - 1) <= tolerance * 1.01 + 1e-4
        assert done.after == pytest.approx(measured[done.name], rel=1e-3)
        assert done.iterations <= 2
    assert any(abs(done.before - 1) > 0.1 for done in report.layers)  # there was something to do


def test_plain_orthonormal_weights_are_no_unit_variance(digits):
    """Negative control: without rescaling a deep network's signal dies."""
    module = deep()
    with pytest.warns(LSUVWarning, match=r"output variances are not within 0\.1 of 1: 0 "):
        report = lsuv(module, digits, seed=1, max_iterations=0)
    assert not report.converged
    assert report.layers[-1].after < 1e-3


def test_order_and_report(digits):
    module = Branches()
    report = lsuv(module, digits, seed=1)
    assert [done.name for done in report.layers] == ["convolution", "inner.0", "inner.1", "last"]
    assert report.unused == ("unused",)
    assert report.layers[0].shape == (8, 1, 3, 3)
    text = str(report)
    assert "convolution" in text
    assert "unused                   not reached" in text


def test_weights_stay_orthogonal_and_biases_are_zero(digits):
    module = deep()
    lsuv(module, digits, seed=1)
    weight = module[2].weight.detach().double()
    gram = weight @ weight.T
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(len(gram)).double(), atol=1e-5, rtol=0)
    assert not module[2].bias.any()


def test_module_is_otherwise_left_as_it_was(digits):
    module = Branches()
    module.norm.eval()
    versions = {name: p._version for name, p in module.named_parameters()}
    running = module.norm.running_mean.clone()
    lsuv(module, digits, seed=1)
    assert module.training
    assert module.drop.training
    assert not module.norm.training
    assert torch.equal(module.norm.running_mean, running)
    assert all(p.requires_grad for p in module.parameters())
    assert all(p._version > versions[name] for name, p in module.named_parameters() if "norm" not in name)
    assert not module.convolution._forward_hooks


def test_seed_and_keyword_inputs(digits):
    a, b, c = Branches(), Branches(), Branches()
    lsuv(a, digits, seed=1)
    lsuv(b, digits, seed=1)
    report = lsuv(c, digits, seed=2, scale=100.0)
    assert torch.equal(a.last.weight, b.last.weight)
    assert not torch.equal(a.last.weight, c.last.weight)
    assert report.layers[0].before > 100


def test_select(digits):
    module = deep()
    before = module[2].weight.detach().clone()
    report = lsuv(module, digits, seed=1, select=lambda name, layer: name == "0")
    assert [done.name for done in report.layers] == ["0"]
    assert torch.equal(module[2].weight, before)


def test_tied_layers_are_scaled_once(digits):
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    module[2].weight = module[0].weight
    with pytest.warns(LSUVWarning):
        report = lsuv(module, digits, seed=1)
    assert report.layers[0].converged
    assert report.layers[1].tied_to == "0"
    assert report.layers[1].iterations == 0


def test_bad_arguments(digits):
    module = deep()
    with pytest.raises(ValueError, match=r"tolerance=0\.0 is not positive"):
        lsuv(module, digits, seed=1, tolerance=0.0)
    with pytest.raises(ValueError, match="max_iterations=-1 is too small"):
        lsuv(module, digits, seed=1, max_iterations=-1)
    with pytest.raises(ValueError, match="no Linear or Conv layer"):
        lsuv(nn.ReLU(), digits, seed=1)
    with pytest.raises(ValueError, match=r"layer '0': the variance of its output is 0\.0"):
        lsuv(module, torch.zeros(4, 64), seed=1)
    with pytest.raises(ValueError, match="layer '0': the variance of its output is nan"):
        lsuv(module, torch.full((4, 64), math.nan), seed=1)
    with pytest.raises(ValueError, match="its weight is not its own parameter"):
        lsuv(nn.utils.parametrizations.weight_norm(nn.Linear(64, 3)), digits, seed=1)
    with pytest.raises(ValueError, match="seed=-1 is out of range"):
        lsuv(module, digits, seed=-1)
