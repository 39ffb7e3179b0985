"""Initializers as written peers: worked by hand from their sources, and held against torch's layers."""

import math
from functools import partial
from math import sqrt

import numpy as np
import pytest
import torch
from peers import Law, keras_law, law_of, p_value
from torch import nn

import initium as ini
from initium.initializers import peers
from initium.layouts import IN_OUT, TRANSPOSED, Fans
from initium.torch import default_rules, reset_parameters

keras = pytest.importorskip("keras")

DENSE = (60, 20)  # 60 outputs, 20 inputs; for TensorFlow 60 inputs, 20 outputs
CONV = (32, 6, 3, 5)  # fan_in 90, fan_out 480
HWIO = (3, 5, 6, 32)  # the same, as TensorFlow has it


def uniform(bound):
    return Law("uniform", -bound, bound)


def normal(std, cut=np.inf):
    return Law("normal", 0.0, std, cut)


BY_HAND = {
    # rules of thumb and papers
    "1/sqrt(n) uniform, dense": (peers.one_over_sqrt_uniform(), DENSE, uniform(1 / sqrt(20))),
    "1/sqrt(n) uniform, conv": (peers.one_over_sqrt_uniform(), CONV, uniform(1 / sqrt(90))),
    "1/sqrt(n) normal": (peers.one_over_sqrt_normal(), DENSE, normal(1 / sqrt(20))),
    "simple Xavier": (peers.simple_xavier("in_out"), DENSE, uniform(1 / sqrt(60))),
    "normalised Xavier": (peers.normalised_xavier(), DENSE, uniform(sqrt(6) / sqrt(80))),
    "Xavier, tanh": (peers.xavier_tanh(), DENSE, uniform(sqrt(6 / 80))),
    "Xavier, logistic": (peers.xavier_logistic(), DENSE, uniform(4 * sqrt(6 / 80))),
    "Kwon, logistic": (peers.kwon_logistic(), DENSE, uniform(sqrt(6 / 80))),
    "Kwon, tanh": (peers.kwon_tanh(), DENSE, uniform((6 / 80) ** 0.25)),
    # Caffe: fan_in = count / num, fan_out = count / channels
    "XavierFiller": (peers.caffe_xavier(), CONV, uniform(sqrt(3 / 90))),
    "XavierFiller FAN_OUT": (peers.caffe_xavier("FAN_OUT"), CONV, uniform(sqrt(3 / 480))),
    "XavierFiller AVERAGE": (peers.caffe_xavier("AVERAGE"), CONV, uniform(sqrt(3 / 285))),
    "MSRAFiller": (peers.caffe_msra(), CONV, normal(sqrt(2 / 90))),
    "MSRAFiller FAN_OUT": (peers.caffe_msra("FAN_OUT"), CONV, normal(sqrt(2 / 480))),
    "MSRAFiller AVERAGE": (peers.caffe_msra("AVERAGE"), CONV, normal(sqrt(2 / 285))),
    # tf.contrib: truncated_normal(stddev=sqrt(1.3 factor / n)), uniform(sqrt(3 factor / n))
    "tf default": (peers.tf_variance_scaling(), HWIO, normal(sqrt(1.3 * 2 / 90), 2.0)),
    "tf FAN_OUT": (peers.tf_variance_scaling(1.5, "FAN_OUT"), HWIO, normal(sqrt(1.3 * 1.5 / 480), 2.0)),
    "tf FAN_AVG": (peers.tf_variance_scaling(1.0, "FAN_AVG"), DENSE, normal(sqrt(1.3 / 40), 2.0)),
    "tf uniform": (peers.tf_variance_scaling(1.0, "FAN_IN", True), DENSE, uniform(sqrt(3 / 60))),
    "tf vector": (peers.tf_variance_scaling(), (50,), normal(sqrt(2.6 / 50), 2.0)),
    "tf xavier": (peers.tf_xavier(), DENSE, uniform(sqrt(6 / 80))),
    "tf xavier, normal": (peers.tf_xavier(uniform=False), DENSE, normal(sqrt(1.3 / 40), 2.0)),
    # MXNet: scale = sqrt(magnitude / factor)
    "mx Xavier": (peers.mxnet_xavier(), CONV, uniform(sqrt(3 / 285))),
    "mx Xavier in": (peers.mxnet_xavier("uniform", "in", 2.34), CONV, uniform(sqrt(2.34 / 90))),
    "mx Xavier out": (peers.mxnet_xavier("gaussian", "out", 2.0), CONV, normal(sqrt(2 / 480))),
    "mx MSRAPrelu": (peers.mxnet_msra_prelu(), CONV, normal(sqrt(2 / (1 + 0.25**2) / 285))),
    "mx MSRAPrelu in": (peers.mxnet_msra_prelu("in", 0.0), CONV, normal(sqrt(2 / 90))),
    # torch's layers
    "torch Linear": (peers.torch_linear(), DENSE, uniform(1 / sqrt(20))),
    "torch bias": (peers.torch_bias(90), (32,), uniform(1 / sqrt(90))),
    "torch bias of nothing": (peers.torch_bias(0), (3,), Law("constant", 0.0, 0.0)),
    "torch RNN": (peers.torch_rnn(64), (256, 32), uniform(1 / 8)),
    "torch Embedding": (peers.torch_embedding(), (100, 8), normal(1.0)),
}


@pytest.mark.parametrize(("initializer", "shape", "law"), BY_HAND.values(), ids=BY_HAND)
def test_formula_worked_by_hand(initializer, shape, law):
    ours = law_of(initializer, shape)
    assert ours.kind == law.kind
    assert ours[1:] == pytest.approx(law[1:], rel=1e-14, abs=0)


@pytest.mark.parametrize("name", ["random_normal", "random_uniform", "truncated_normal"])
def test_keras_defaults(name):
    peer = getattr(keras.initializers, name)(seed=1)
    assert law_of(getattr(peers, f"keras_{name}")(), (8, 8)) == keras_law(peer, (8, 8))


def test_the_factor_of_tf_contrib_is_not_the_exact_correction():
    ours, exact = peers.tf_variance_scaling(2.0), ini.he_normal("in_out")
    ratio = (ours.resolve(DENSE).std / exact.resolve(DENSE).std) ** 2
    assert ratio == pytest.approx(1.3 * 0.87962566103423978**2, rel=1e-9)
    assert 1.005 < ratio < 1.007


def test_fans_are_reported():
    assert peers.kwon_tanh().fans(CONV) == Fans(90.0, 480.0)
    assert peers.tf_xavier().fans(HWIO) == Fans(90.0, 480.0)
    assert peers.tf_xavier().fans((7,)) == Fans(7.0, 7.0)
    assert peers.kwon_tanh().resolve((2, 4), IN_OUT).high == 1.0
    assert peers.kwon_tanh().fans((8, 3, 5), TRANSPOSED) == Fans(40.0, 15.0)


# 32 entries, 32 controls of 60,000 values; new seeds would fail a test wrongly once in 1e4 times.
FALSE_ALARM = 1e-4
LARGE = {DENSE: (600, 200), CONV: (320, 60, 3, 5), HWIO: (3, 5, 60, 320)}
RANDOM = {name: case for name, case in BY_HAND.items() if case[2].kind != "constant" and case[1] in LARGE}


@pytest.mark.parametrize(("initializer", "shape", "law"), RANDOM.values(), ids=RANDOM)
def test_values_follow_their_law(initializer, shape, law):
    """The law of a tensor ten times as large each way: channels grow tenfold, and so does n."""
    values = ini.initialize(initializer, LARGE[shape], seed=11, name="w")
    shrink = 10**-0.25 if isinstance(initializer, peers.FourthRoot) else 10**-0.5
    expected = Law(law.kind, law.a * shrink, law.b * shrink, law.cut)
    assert p_value(values, expected) > FALSE_ALARM
    # Negative control: fans off by a tenth.
    assert p_value(values, Law(law.kind, expected.a * 1.05, expected.b * 1.05, law.cut)) < FALSE_ALARM


# --- torch's layers -----------------------------------------------------------------------------------------

MODULES = {
    "linear": lambda: nn.Linear(300, 200),
    "convolutions": lambda: nn.Sequential(
        nn.Conv1d(20, 40, 5),
        nn.Conv2d(32, 64, 3, groups=4),
        nn.Conv3d(8, 16, 3),
        nn.Conv2d(48, 48, 3, groups=48),
    ),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(60, 20, 3), nn.ConvTranspose1d(30, 60, 4, groups=2)
    ),
    "bilinear": lambda: nn.Bilinear(30, 40, 20),
    "recurrent": lambda: nn.Sequential(nn.LSTM(30, 50, 2), nn.GRU(30, 50), nn.RNNCell(40, 60)),
    "attention": lambda: nn.Sequential(
        nn.MultiheadAttention(48, 4, add_bias_kv=True), nn.MultiheadAttention(48, 4, kdim=20, vdim=30)
    ),
    "embeddings": lambda: nn.Sequential(nn.Embedding(300, 40, padding_idx=3), nn.EmbeddingBag(100, 40)),
    "norms": lambda: nn.Sequential(
        nn.LayerNorm(9),
        nn.RMSNorm(9),
        nn.GroupNorm(3, 9),
        nn.BatchNorm2d(9),
        nn.InstanceNorm1d(9, affine=True),
    ),
    "prelu": lambda: nn.PReLU(5, init=0.1),
    "transformer": lambda: nn.TransformerEncoderLayer(48, 4, 96),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_modules_follow_the_law_of_torch(make):
    """What torch's own constructor draws fits our bounds and stds; and our draw fits torch's sample."""
    torch.manual_seed(3)
    module = make()
    theirs = {name: value.detach().clone() for name, value in module.named_parameters()}
    report = reset_parameters(module, seed=4)
    assert [done.name for done in report.parameters] == list(theirs)
    rules = {done.name: done.distribution for done in report.parameters}
    for name, value in module.named_parameters():
        ours, peer = value.detach().double(), theirs[name].double()
        assert value.requires_grad
        if peer.unique().numel() == 1:
            assert torch.equal(ours, peer), name
            continue
        assert not torch.equal(ours, peer)
        tolerance = 7 / math.sqrt(2 * peer.numel())
        assert ours.std() / peer.std() == pytest.approx(1, abs=tolerance), (name, rules[name])
        if rules[name].startswith("uniform"):
            assert ours.abs().max() / peer.abs().max() == pytest.approx(1, abs=20 / peer.numel() + 1e-4), name


def test_padding_row_stays_clear():
    module = nn.Embedding(10, 4, padding_idx=3)
    reset_parameters(module, seed=1)
    assert not module.weight[3].any()
    assert module.weight[2].all()


def test_unknown_layers_are_listed():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.inner = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"parameters a\.scale, b\.scale belong to no layer of torch"):
        default_rules(nn.ModuleDict({"a": Scaled(), "b": Scaled()}))


def test_shared_layers_are_drawn_once():
    shared = nn.Linear(4, 4)
    report = reset_parameters(nn.ModuleDict({"a": shared, "b": shared}), seed=1)
    assert {done.name: done.distribution for done in report.parameters}["b.weight"] == "tied to a.weight"


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(peers.caffe_xavier, "fan_in"), "variance_norm='fan_in'.*FAN_IN, FAN_OUT, AVERAGE"),
        (partial(peers.caffe_msra, None), "variance_norm=None"),
        (partial(peers.tf_variance_scaling, 1.0, "AVERAGE"), "mode='AVERAGE'.*FAN_IN, FAN_OUT, FAN_AVG"),
        (partial(peers.mxnet_xavier, "normal"), "rnd_type='normal'.*uniform, gaussian"),
        (partial(peers.mxnet_xavier, factor_type="mean"), "factor_type='mean'.*in, out, avg"),
        (partial(peers.mxnet_xavier, magnitude=-1.0), "magnitude=-1.0 is not positive"),
        (partial(peers.torch_bias, -1), "fan_in=-1 is too small"),
        (partial(peers.torch_rnn, -5), "hidden_size=-5 is too small"),
        (partial(peers.FourthRoot, 0.0), "scale=0.0 is not positive"),
        (partial(peers.kwon_tanh, "hwio"), "layout='hwio'"),
        (partial(peers.caffe_xavier().resolve, (5,)), "fans of shape=\\(5,\\) are not defined"),
        (partial(peers.tf_xavier().resolve, ()), "fans of shape=\\(\\) are not defined"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
