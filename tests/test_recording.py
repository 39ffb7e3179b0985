"""A model's own initialisation: recorded on the meta device, and drawn by initium.

Values without randomness are compared for equality with what torch computes. Random values are compared by
two-sample tests with what the same code draws with torch's generators: ALPHA is the rate at which one
Kolmogorov-Smirnov test rejects equal laws. There are fewer than 1,000 of them with fixed seeds, so correct
code passes all with a probability above 0.999 for seeds of anybody's choice. Negative controls must fail.
"""

import copy
import io
import math
import pickle
import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import initium as ini
from initium.recording.tape import init_functions
from initium.torch import RecordingError, own_starts, recording

ALPHA = 1e-6


def recorded(make):
    with recording():
        return make()


def drawn(make, seed=7):
    module = recorded(make)
    ini.init_model(module, "own", seed=seed)
    return module


def laws(module):
    return {name: str(start) for name, start in own_starts(module).items()}


def holding(make):
    """Return a class of modules with one tensor, which `make` returns."""

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("x", make())

    return Holder


# --- values without randomness ------------------------------------------------------------------------------

VALUES = {
    "tensor": lambda: torch.tensor([1.0, 2.0]),
    "tensor on a device": lambda: torch.tensor([1.0, 2.0], device=torch.zeros(1).device),
    "as_tensor of an array": lambda: torch.as_tensor(np.ones(3, np.float32), device="cpu"),
    "asarray": lambda: torch.asarray([1.0, 2.0]),
    "from_numpy": lambda: torch.from_numpy(np.arange(3.0)).float(),
    "frombuffer": lambda: torch.frombuffer(bytearray(np.ones(4, np.float32).tobytes()), dtype=torch.float32),
    "Tensor of a list": lambda: torch.Tensor([1.0, 2.0]),
    "FloatTensor": lambda: torch.FloatTensor([3.0, 4.0]),
    "tensor of tensors": lambda: torch.tensor([torch.tensor(1.0), torch.tensor(2.0)]),
    "tensor of a tensor": lambda: torch.tensor(np.float64(1.5)),
    "new_tensor": lambda: torch.zeros(3).new_tensor([1.0, 2.0, 3.0]),
    "new_full": lambda: torch.zeros(3).new_full((3,), 2.0),
    "numpy and back": lambda: torch.as_tensor(torch.ones(4).numpy() * 2),
    "list and back": lambda: torch.tensor(torch.arange(3.0).tolist()),
    "item": lambda: torch.tensor([x.item() for x in torch.linspace(0, 1, 4)]),
    "truth": lambda: torch.ones(2) if torch.arange(3).sum() == 3 else torch.zeros(2),
    "full on a device": lambda: torch.full((3,), 2.0, device="cpu"),
    "linspace": lambda: torch.linspace(0, 1, 5, device="cpu"),
    "logspace": lambda: torch.logspace(0, 1, 4),
    "stack": lambda: torch.stack([torch.tensor(1.0), torch.tensor(2.0)]),
    "cat": lambda: torch.cat([torch.ones(2), torch.zeros(2)]),
    "cumsum": lambda: torch.ones(3).cumsum(0),
    "normalize": lambda: nn.functional.normalize(torch.arange(1.0, 4.0), dim=0),
    "window": lambda: torch.hann_window(8),
    "outer": lambda: torch.outer(torch.arange(3.0), torch.arange(2.0)),
    "eye": lambda: torch.eye(3) * 2,
    "einsum": lambda: torch.einsum("i,j->ij", torch.arange(3.0), torch.arange(2.0)),
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).t(),
    "masked": lambda: torch.ones(2, 2).masked_fill(torch.eye(2, dtype=torch.bool), -1.0),
    "where": lambda: torch.where(torch.arange(4) > 1, torch.ones(4), torch.zeros(4)),
    "selected by a mask": lambda: torch.arange(4.0)[torch.arange(4) > 1],
    "nonzero": lambda: torch.nonzero(torch.tensor([0.0, 1.0, 2.0])),
    "meshgrid": lambda: torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")[0],
    "expanded": lambda: torch.tensor(0.5).expand(3),
    "float64": lambda: torch.ones(3, dtype=torch.float64) / 3,
    "complex": lambda: torch.polar(torch.ones(3), torch.arange(3.0)),
    "fourier": lambda: torch.fft.rfft(torch.arange(4.0)),
    "infinite": lambda: torch.triu(torch.full((3, 3), -math.inf), 1),
    "integers": lambda: torch.arange(4).expand(1, -1),
    "booleans": lambda: torch.tril(torch.ones(3, 3, dtype=torch.bool)),
    "bfloat16": lambda: torch.sin(torch.arange(3.0)).to(torch.bfloat16),
    "another dtype": lambda: torch.ones(2).double().to(torch.zeros(1, dtype=torch.half)),
    "type": lambda: torch.ones(2).type(torch.float16).type_as(torch.zeros(1)),
    "filled diagonal": lambda: torch.zeros(3, 3).fill_diagonal_(2.0),
    "scattered": lambda: torch.zeros(4).scatter_(0, torch.tensor([1]), 1.0),
    "indexed": lambda: torch.ones(3).index_copy(0, torch.tensor([1]), torch.tensor([5.0])),
    "sorted": lambda: torch.arange(3.0).sort(descending=True)[0],
    "seen as another dtype": lambda: torch.ones(3).view(torch.int32),
    "seen as real": lambda: torch.view_as_real(torch.polar(torch.ones(2), torch.arange(2.0))),
    "rounded constant": lambda: torch.full((3,), 0.1, dtype=torch.bfloat16).float() * 3,
    "in place on a part": lambda: torch.zeros(4, 3).index_fill_(0, torch.tensor([1]), 2.0)[1:].mul_(2.0),
    "split": lambda: torch.arange(6.0).chunk(2)[1],
    "no elements": lambda: torch.empty(0, 3),
    "scalar": lambda: torch.ones(()) * 0.3,
    "an index of lists": lambda: indexed(torch.zeros(4, 3)),
    "an array, changed": lambda: changed_array(torch.ones(4)),
    "from an array, which changes": lambda: from_changed_array(np.ones(4)),
    "copied to itself": lambda: with_itself(torch.ones(4)),
    "overlapping": lambda: with_overlaps(torch.ones(8)),
    "a divided constant": lambda: torch.stack([torch.full((), float(n)).div_(3) for n in range(20)]),
    "a conjugate": lambda: torch.polar(torch.ones(2), torch.arange(2.0)).conj().resolve_conj(),
    "the imaginary part of it": lambda: torch.polar(torch.ones(2), torch.arange(2.0)).conj().imag.clone(),
    "eigenvalues": lambda: torch.linalg.eig(torch.diag(torch.arange(1.0, 4.0)))[0].real.clone(),
    "of its own seed": lambda: torch.randn(5, generator=torch.Generator().manual_seed(3)),
    "an initializer of its own seed": lambda: nn.init.trunc_normal_(
        torch.empty(5), generator=torch.Generator().manual_seed(3)
    ),
    "loaded": lambda: torch.load(io.BytesIO(SAVED))["x"] * 2,
    "addresses": lambda: torch.tensor(len({t.data_ptr() for t in torch.zeros(3, 2)})),
    "addresses of storages": lambda: torch.tensor(
        len({torch.zeros(2).untyped_storage().data_ptr(), torch.ones(2).untyped_storage().data_ptr()})
    ),
}


def indexed(x):
    x[[0, -1]] = 1.0
    x[np.array([2]), 1:] += x[[0], :2]
    return x[:, [2, 1]]


def changed_array(x):
    x.numpy()[2] = 5
    return x


def from_changed_array(array):
    x = torch.from_numpy(array)
    array[1] = 7
    return x


def with_itself(x):
    return x.copy_(x)


def with_overlaps(x):
    x.unfold(0, 3, 1).fill_(2.0)
    return x


def saved(x):
    file = io.BytesIO()
    torch.save({"x": x}, file)
    return file.getvalue()


SAVED = saved(torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("x", [math.nan, [1.0, math.nan]])
def test_not_a_number(x):
    made = drawn(holding(lambda: torch.tensor(x))).x
    assert made.isnan().equal(torch.tensor(x).isnan())


@pytest.mark.parametrize("is_training", [False, True])
def test_a_forward_pass(is_training):
    """Also the statistics of norms, which the pass changes."""

    def make():
        layer = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train(is_training)
        nn.init.constant_(layer[0].weight, 0.5)
        nn.init.zeros_(layer[0].bias)
        layer.register_buffer("seen", layer(torch.ones(8, 4)).detach())
        return layer

    expected, made = make(), drawn(make)
    assert torch.equal(made[1].running_mean, expected[1].running_mean)
    assert torch.equal(made[1].running_var, expected[1].running_var)
    assert made[1].num_batches_tracked == is_training and torch.allclose(made.seen, expected.seen)


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_torch(name):
    expected = VALUES[name]()
    made = drawn(holding(VALUES[name])).x
    assert made.dtype == expected.dtype and made.shape == expected.shape and made.device == expected.device
    assert torch.equal(made, expected)


def test_values_in_another_default_dtype():
    """Factories without a dtype are replayed in the default dtype of the recording."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        expected = torch.arange(40) / torch.linspace(1, 3, 40)
        module = recorded(holding(lambda: torch.arange(40) / torch.linspace(1, 3, 40)))
    finally:
        torch.set_default_dtype(torch.float32)
    ini.init_model(module, "own", seed=1)
    assert module.x.dtype == torch.bfloat16 and torch.equal(module.x, expected)


def test_the_meta_device_as_context():
    with torch.device("meta"):
        outer = recorded(holding(lambda: torch.tensor([1.0, 2.0]) * 3))
    with recording(), torch.device("meta"):
        inner = holding(lambda: torch.tensor([1.0, 2.0]) * 3)()
    for module in (outer, inner):
        ini.init_model(module, "own", seed=1)
        assert module.x.tolist() == [3.0, 6.0]


# --- laws ---------------------------------------------------------------------------------------------------


def timm_trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0):
    """As in timm and in older versions of torch."""
    low, high = (math.erf((bound - mean) / std / math.sqrt(2)) for bound in (a, b))
    with torch.no_grad():
        tensor.uniform_(low, high).erfinv_().mul_(std * math.sqrt(2.0)).add_(mean).clamp_(min=a, max=b)
    return tensor


def filled(shape, fill):
    """Return a function that makes a module with one weight, initialised by `fill`."""

    class Filled(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.empty(shape))
            with torch.no_grad():
                fill(self.w)

    return Filled


def by_gate(w):
    for gate in w.chunk(4):
        nn.init.orthogonal_(gate)


def by_expert(w):
    for number, expert in enumerate(w):
        nn.init.normal_(expert, std=0.02 * (1 + (number == 3)))


def alike_by_expert(w):
    for expert in w:
        nn.init.kaiming_uniform_(expert, a=math.sqrt(5))


def fused(w):
    nn.init.xavier_uniform_(w[:8])
    nn.init.normal_(w[8:], std=0.5)


def rows_of_zeros(w):
    nn.init.normal_(w)
    w[2].zero_()
    w[5:].fill_(1.0)


LAWS = {
    "uniform": (filled((4, 3), lambda w: nn.init.uniform_(w, -1, 2)), "uniform(-1, 2)"),
    "normal": (filled((4, 3), lambda w: nn.init.normal_(w, 1, 2)), "normal(1, 2)"),
    "kaiming": (
        filled((4, 6), lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu")),
        "uniform(-1, 1)",
    ),
    "truncated": (
        filled((4, 3), lambda w: nn.init.trunc_normal_(w, std=0.5, a=-1, b=1)),
        "truncated_normal(0, 0.5, -2, 2)",
    ),
    "truncated, as in timm": (
        filled((4, 3), lambda w: timm_trunc_normal_(w, std=0.5, a=-1, b=1)),
        "truncated_normal(0, 0.5, -2, 2)",
    ),
    "truncated far away, as in timm": (
        filled((4, 3), lambda w: timm_trunc_normal_(w, std=0.02)),
        "truncated_normal(0, 0.02, -100, 100)",
    ),
    "orthogonal": (filled((4, 3), lambda w: nn.init.orthogonal_(w, 2)), "orthogonal(2)"),
    "sparse": (
        filled((4, 3), lambda w: nn.init.sparse_(w, 0.5)),
        "normal(0, 0.01), 2 of 4 zero along axis 0",
    ),
    "constant": (filled((4, 3), lambda w: w.fill_(0.25)), "constant(0.25)"),
    "scaled": (filled((4, 3), lambda w: w.normal_().mul_(0.5).add_(1)), "normal(1, 0.5)"),
    "scaled by a tensor": (filled((4, 3), lambda w: w.normal_().mul_(torch.tensor(0.5))), "normal(0, 0.5)"),
    "divided": (filled((4, 3), lambda w: w.uniform_(-1, 1).div_(4).neg_()), "uniform(-0.25, 0.25)"),
    "random numbers, then copied": (
        filled((4, 3), lambda w: w.copy_((torch.rand(4, 3) - 0.5) * 0.2)),
        "uniform(-0.1, 0.1)",
    ),
    "drawn twice": (filled((4, 3), lambda w: w.uniform_().normal_(std=3)), "normal(0, 3)"),
    "data": (filled((4, 3), lambda w: w.data.normal_(0, 0.02)), "normal(0, 0.02)"),
    "by gate": (filled((8, 2), by_gate), "orthogonal(1) at [0:2], [2:4], [4:6], ..."),
    "by expert": (filled((4, 3, 2), by_expert), "normal(0, 0.02) at [0], [1], [2]; normal(0, 0.04) at [3]"),
    "alike by expert": (filled((4, 3, 4), alike_by_expert), "uniform(-0.5, 0.5)"),
    "fused": (filled((12, 4), fused), "uniform(-0.707107, 0.707107) at [0:8]; normal(0, 0.5) at [8:12]"),
    "rows of zeros": (
        filled((7, 3), rows_of_zeros),
        "normal(0, 1) at [0:2], [3:5]; constant(0) at [2]; constant(1) at [5:7]",
    ),
    "clipped": (filled((4, 3), lambda w: w.normal_().clamp_(-1, 1)), "program(normal_, clamp_)"),
    "its logarithm": (filled((4, 3), lambda w: w.uniform_(1, 16).log_()), "program(uniform_, log_)"),
    "every other row": (
        filled((4, 3), lambda w: (w.normal_(), w[::2].zero_())),
        "program(normal_, zero_)",
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws(name):
    make, expected = LAWS[name]
    assert laws(recorded(make)) == {"w": expected}


def two_samples(ours, theirs):
    """Return whether two samples may have the same law."""
    return stats.ks_2samp(ours.ravel(), theirs.ravel()).pvalue > ALPHA


LARGE = {
    "uniform": lambda w: nn.init.uniform_(w, -1, 2),
    "xavier": lambda w: nn.init.xavier_normal_(w, 2.0),
    "truncated": lambda w: nn.init.trunc_normal_(w, 0.2, 0.5, -1, 0.5),
    "truncated far": lambda w: nn.init.trunc_normal_(w, 0.0, 0.5, 1.0, 2.0),
    "truncated, as in timm": lambda w: timm_trunc_normal_(w, 0.2, 0.5, -1, 0.5),
    "orthogonal": lambda w: nn.init.orthogonal_(w, 3.0),
    "sparse": lambda w: nn.init.sparse_(w, 0.3, 2.0),
    "clipped": lambda w: w.normal_().clamp_(-1, 1),
    "log": lambda w: w.uniform_(1, 16).log_(),
    "exponential": lambda w: w.exponential_(2.0),
    "log-normal": lambda w: w.log_normal_(0.5, 0.3),
    "bernoulli": lambda w: w.bernoulli_(0.3),
    "normal with means": lambda w: w.copy_(torch.normal(torch.ones_like(w), 0.1)),
    "integers": lambda w: w.copy_(torch.randint(3, 9, w.shape)),
    "permuted": lambda w: w.view(-1).copy_(torch.randperm(w.numel())),
    "bernoulli by tensor": lambda w: w.copy_(torch.bernoulli(torch.full_like(w, 0.3))),
    "randn_like": lambda w: w.copy_(torch.randn_like(w) * 0.3),
    "complex": lambda w: w.copy_(torch.view_as_real(torch.randn(*w.shape, dtype=torch.cfloat))[..., 1]),
    "complex, uniform": lambda w: w.copy_(torch.rand(w.shape, dtype=torch.cdouble).imag * 2),
    "complex, with a mean": lambda w: w.copy_(torch.empty(w.shape, dtype=torch.cfloat).normal_(1, 2).imag),
    "square": lambda w: w.copy_(torch.rand_like(w) ** 2),
}


@pytest.mark.parametrize("name", LARGE)
def test_drawn_as_torch_draws(name):
    make = filled((200, 300), LARGE[name])
    torch.manual_seed(1)
    theirs = make().w.detach().numpy()
    ours = drawn(make).w.detach().numpy()
    assert two_samples(ours, theirs)
    assert not np.array_equal(ours, theirs)
    assert not np.array_equal(ours, drawn(make, seed=8).w.detach().numpy())
    if theirs.std() and name not in ("permuted", "bernoulli", "bernoulli by tensor", "integers"):
        assert not two_samples(ours * 1.1, theirs), "the negative control"


MODULES = {
    "linear": lambda: nn.Linear(200, 300),
    "convolution": lambda: nn.Conv2d(32, 64, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose1d(64, 32, 5),
    "embedding": lambda: nn.Embedding(300, 200, padding_idx=3),
    "bag": lambda: nn.EmbeddingBag(300, 200, padding_idx=0),
    "bilinear": lambda: nn.Bilinear(30, 40, 50),
    "lstm": lambda: nn.LSTM(64, 64, 2, bidirectional=True),
    "gru cell": lambda: nn.GRUCell(64, 64),
    "attention": lambda: nn.MultiheadAttention(64, 4, kdim=32, vdim=16, add_bias_kv=True),
    "transformer": lambda: nn.Transformer(64, 4, 2, 2, 128),
    "encoder layer": lambda: nn.TransformerEncoderLayer(64, 4, 128),
    "batch norm": lambda: nn.BatchNorm2d(8),
    "instance norm": lambda: nn.InstanceNorm1d(8, affine=True, track_running_stats=True),
    "norms": lambda: nn.Sequential(nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8), nn.PReLU(8)),
    "adaptive softmax": lambda: nn.AdaptiveLogSoftmaxWithLoss(64, 1000, [100, 500]),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(200, 100)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(200, 100)),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_layers_of_torch(name):
    """Also by the methods that reset them, for modules that exist already."""
    torch.manual_seed(1)
    theirs, others = (MODULES[name]().state_dict() for _ in range(2))
    modules = [drawn(MODULES[name])]
    if name not in ("weight norm", "old spectral norm", "transformer"):
        again = MODULES[name]()
        ini.init_model(again, "own", seed=7)
        modules.append(again)
    for module in modules:
        ours = module.state_dict()
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            fixed = value == others[key]
            assert torch.equal(ours[key][fixed], value[fixed]), key
            if not fixed.all() and value.numel() >= 64:
                assert two_samples(ours[key][~fixed].numpy(), value[~fixed].numpy()), key
    if len(modules) == 2:
        assert all(
            torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in modules), strict=True)
        )


# --- streams ------------------------------------------------------------------------------------------------


def test_bits_are_those_of_initialize():
    module = drawn(lambda: nn.Sequential(nn.Linear(30, 20), nn.Embedding(9, 4, padding_idx=2)), seed=3)
    bound = 1 / math.sqrt(30)
    expected = ini.uniform((20, 30), -bound, bound, seed=3, name="0.weight")
    # kaiming_uniform_ computes the bound in another order.
    assert np.abs(module[0].weight.detach().numpy() - expected).max() <= 2**-26
    table = ini.normal((9, 4), seed=3, name="1.weight")
    table[2] = 0
    assert np.array_equal(module[1].weight.detach().numpy(), table)


def test_parts_are_parts_of_the_whole():
    """A tensor whose boxes have laws of their own has the same values where the law is the same."""
    module = drawn(filled((4, 3, 2), by_expert), seed=3)
    whole = ini.normal((4, 3, 2), 0.0, 0.02, seed=3, name="w")
    assert np.array_equal(module.w[:3].detach().numpy(), whole[:3])
    gates = drawn(filled((8, 2), by_gate), seed=3).w
    for number in range(4):
        expected = ini.orthogonal((2, 2), seed=3, name=f"w#{number}")
        assert np.array_equal(gates[2 * number : 2 * number + 2].detach().numpy(), expected)


def test_copies_stay_copies():
    """Layers that torch copies deeply start equal; what is drawn again does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = drawn(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 3))
        transformer = drawn(lambda: nn.Transformer(8, 2, 2, 2, 8))
    first, *others = encoder.layers
    for other in others:
        assert all(map(torch.equal, first.state_dict().values(), other.state_dict().values()))
    a, b = (layer.linear1 for layer in transformer.encoder.layers)
    assert torch.equal(a.bias, b.bias) and not torch.equal(a.weight, b.weight)


def test_copied_embedding():
    def make():
        table = nn.Embedding(5, 3, padding_idx=1)
        return nn.ModuleList([table, copy.deepcopy(table)])

    one, two = drawn(make)
    assert torch.equal(one.weight, two.weight) and not one.weight[1].any() and one.weight[0].all()


def mirrored(w):
    part = torch.randn(2, 3)
    w[:2], w[2:] = part, -part


def repeated(w):
    expert = torch.randn(3)
    for row in w:
        row.copy_(expert)


@pytest.mark.parametrize("fill", [mirrored, repeated])
def test_draws_that_a_tensor_has_twice(fill):
    w = drawn(filled((4, 3), fill)).w
    assert torch.equal(w[2:].abs(), w[:2].abs()) and torch.equal(w[0], w[1]) == (fill is repeated)


COPIES = {
    "negated": lambda a: -a,
    "turned around": lambda a: a * -1 + 1,
    "transposed": lambda a: a.t().clone(),
    "transposed and contiguous": lambda a: a.t().contiguous(),
    "in another dtype": lambda a: a.double().neg(),
}


@pytest.mark.parametrize("first", [torch.randn, torch.rand])
@pytest.mark.parametrize("name", COPIES)
def test_copies_of_another_kind(name, first):
    """A copy that is turned around is not the draw, though its law is the same."""

    def make():
        a = first(5, 5)
        return nn.ParameterList([a, COPIES[name](a)])

    a, b = drawn(make)
    assert torch.equal(b, COPIES[name](a))


def test_draws_in_the_order_of_other_axes():
    def make():
        w = torch.empty(5, 5)
        w.t().normal_()
        return nn.ParameterList([w, w.exp()])

    w, other = drawn(make)
    assert torch.equal(other, w.exp())


def test_a_part_drawn_again_after_a_copy():
    def make():
        a = torch.randn(6, 3)
        b = a.clone()
        a[3:].normal_()
        return nn.ParameterList([a, b])

    a, b = drawn(make)
    assert torch.equal(a[:3], b[:3]) and not (a[3:] == b[3:]).any()


def test_parts_that_two_tensors_have_in_another_order():
    def make():
        a, b = torch.randn(3), torch.randn(3)
        w, v = torch.empty(2, 3), torch.empty(2, 3)
        w[0], w[1], v[0], v[1] = a, b, b, a
        return nn.ParameterList([w, v])

    w, v = drawn(make)
    assert torch.equal(w, v.flip(0)) and not torch.equal(w, v)


def test_draws_that_programs_share():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.randn(5, 4))
            self.norm = nn.Parameter(self.a.detach().norm(dim=1))
            self.twice = nn.Parameter(self.a.detach() * 2)

    module = drawn(Shared)
    assert torch.equal(module.norm, module.a.norm(dim=1)) and torch.equal(module.twice, 2 * module.a)
    assert np.array_equal(module.a.detach().numpy(), ini.normal((5, 4), seed=7, name="a"))


def test_weight_norm():
    module = drawn(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)))
    weights = module.parametrizations.weight
    assert torch.allclose(weights.original0, weights.original1.norm(dim=1, keepdim=True))


# --- memory -------------------------------------------------------------------------------------------------


def test_ties_attributes_and_settings():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.table.weight
            self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
            self.register_buffer("steps", torch.arange(3), persistent=False)
            self.register_buffer("seen", self.table.weight.detach().t())
            self.plain = torch.arange(3.0) * 2
            self.held = [torch.ones(2), {"key": torch.zeros(1)}, "text"]
            self.table.weight.is_table = True

    module = recorded(Tied)
    assert all(tensor.is_meta for tensor in module.state_dict().values())
    report = ini.init_model(module, "own", seed=1)
    assert module.head.weight is module.table.weight and module.table.weight.is_table
    assert isinstance(module.table.weight, nn.Parameter) and module.table.weight.requires_grad
    assert not module.frozen.requires_grad and module.steps.tolist() == [0, 1, 2]
    assert module.seen.data_ptr() == module.table.weight.data_ptr()
    assert module.plain.tolist() == [0, 2, 4] and module.held[1]["key"].tolist() == [0]
    assert report.weights["head.weight"] is module.table.weight
    assert {p.name: p.distribution for p in report.parameters}["head.weight"] == "tied to table.weight"
    assert "steps" not in module.state_dict()


def test_recurrent_layers_run():
    module = drawn(lambda: nn.LSTM(4, 4))
    assert module._flat_weights[0] is module.weight_ih_l0
    assert module(torch.zeros(1, 2, 4))[0].shape == (1, 2, 4)


def test_slices_of_one_buffer():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            flat = torch.randn(10)
            self.a, self.b = nn.Parameter(flat[:4]), nn.Parameter(flat[4:])

    module = drawn(Flat)
    assert module.a.untyped_storage().data_ptr() == module.b.untyped_storage().data_ptr()
    assert torch.cat([module.a, module.b]).unique().numel() == 10


def test_drawn_again_with_another_seed():
    module = drawn(lambda: nn.Linear(5, 4), seed=1)
    weight, first = module.weight, module.weight.detach().clone()
    ini.init_model(module, "own", seed=2)
    assert module.weight is weight and not torch.equal(weight, first)
    ini.init_model(module, "own", seed=1)
    assert torch.equal(weight, first)


def test_memory_formats_and_dtypes():
    module = drawn(lambda: nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last).half().to("cuda"))
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.weight.dtype == torch.float16 and module.weight.device.type == "cpu"
    assert module.weight.abs().max() <= 1 / 6 and module.weight.std() > 0.08


def test_module_that_resets_itself():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(30, 20)

        def init_weights(self):
            nn.init.trunc_normal_(self.layer.weight, std=0.02)
            nn.init.zeros_(self.layer.bias)

    with torch.device("meta"):
        module = Own()
    ini.init_model(module, "own", seed=1)
    assert not module.layer.bias.any() and 0.015 < module.layer.weight.std() < 0.025
    with torch.no_grad():
        module.layer.weight.fill_(3)
    ini.init_model(module, "own", seed=1)
    assert module.layer.weight.abs().max() < 0.2


# --- what does not change -----------------------------------------------------------------------------------


def test_generators_and_functions_are_as_before():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    codes = {name: entry.function.__code__ for name, entry in init_functions.functions().items()}
    with pytest.raises(KeyError), recording():
        nn.Linear(3, 3)
        raise KeyError
    drawn(MODULES["attention"])
    assert torch.equal(before[0], torch.get_rng_state()) and before[2] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert codes == {name: getattr(nn.init, name).__code__ for name in codes}
    assert not nn.Linear(3, 3).weight.is_meta


def test_other_threads_are_not_recorded():
    made, entered, left = [], threading.Event(), threading.Event()

    def build():
        entered.wait()
        layer = nn.Linear(50, 50)
        nn.init.trunc_normal_(layer.weight, std=0.5)
        made.append(layer)
        left.set()

    thread = threading.Thread(target=build)
    thread.start()
    with recording():
        entered.set()
        left.wait()
        here = nn.Linear(2, 2)
    thread.join()
    assert not made[0].weight.is_meta and 0.3 < made[0].weight.std() < 0.6
    ini.init_model(here, "own", seed=1)


def test_functions_under_other_names():
    held = {"trunc": nn.init.trunc_normal_, "orthogonal": nn.init.orthogonal_}
    assert laws(recorded(filled((4, 3), lambda w: held["orthogonal"](w)))) == {"w": "orthogonal(1)"}
    expected = {"w": "truncated_normal(0, 0.02, -100, 100)"}
    assert laws(recorded(filled((4, 3), lambda w: held["trunc"](w, std=0.02)))) == expected


# --- with other rules ---------------------------------------------------------------------------------------


def test_rules_replace_a_part_of_the_code():
    module = recorded(
        lambda: nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.ConvTranspose1d(4, 2, 3))
    )
    rules = [
        ("2.weight", ini.he_normal()),
        ("0.weight", ini.Constant(0.5)),
        ("1.running_var", ini.Constant(4.0)),
    ]
    report = ini.init_model(module, [*rules, ("*", ini.own)], seed=3)
    reports = {p.name: p for p in report.parameters}
    assert reports["2.weight"].fans == (12, 6) and reports["2.weight"].rule == "2.weight"
    assert reports["0.bias"].distribution.startswith("uniform") and reports["0.bias"].rule == "*"
    assert (
        (module[0].weight == 0.5).all()
        and (module[1].running_var == 4).all()
        and (module[1].weight == 1).all()
    )
    expected = ini.init_model({"2.weight": (4, 2, 3)}, ini.he_normal(layout=ini.Layout(0, 1)), seed=3)
    assert np.array_equal(module[2].weight.detach().numpy(), expected.weights["2.weight"])


def test_rules_and_tensors_that_share():
    def make():
        return nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))

    name = "parametrizations.weight.original1"
    with pytest.raises(RecordingError, match=rf"original0 is computed from {name}, which has a rule"):
        ini.init_model(recorded(make), {name: ini.Normal(), "*": ini.own}, seed=1)
    module = recorded(make)
    ini.init_model(module, {f"{name[:-1]}0": ini.ones(), name: ini.Normal(), "*": ini.own}, seed=1)
    assert torch.allclose(module.weight.norm(dim=1), torch.ones(5))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = recorded(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 2))
    ini.init_model(encoder, {"layers.0.linear1.weight": ini.Uniform(-1, 1), "*": ini.own}, seed=1)
    one, two = (layer.linear1.weight.detach().ravel() for layer in encoder.layers)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.5


def test_skipped_tensors():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = module[0].weight.detach().clone()
    ini.init_model(module, {"0.weight": ini.skip, "*": "own"}, seed=1)
    assert torch.equal(module[0].weight, before)
    with pytest.raises(ValueError, match=r"params\['weight'\] has no memory to be skipped"):
        ini.init_model(recorded(lambda: nn.Linear(3, 3)), {"weight": ini.skip, "*": ini.own}, seed=1)


# --- errors -------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


def half(w):
    w[:2].fill_(1.0)


def with_numpy(w):
    w.copy_(torch.from_numpy(np.random.rand(4, 3)))  # noqa: NPY002


def with_python(w):
    w.fill_(random.random())


def in_a_thread():
    with ThreadPoolExecutor(1) as threads:
        return nn.Sequential(nn.Linear(2, 2), threads.submit(nn.Linear, 2, 2).result())


def with_another_way(w):
    try:
        w.fill_(torch.rand(1).item())
    except RuntimeError:
        w.fill_(1.0)


OUTSIDE = torch.zeros(2)

ERRORS = {
    "not recorded": (Plain, r"how a Plain starts is written in its constructor.*recording\(\)", False),
    "lazy": (lambda: nn.LazyLinear(3), "weight is lazy", True),
    "without values": (filled((4, 3), lambda w: None), "w: .* without values", True),
    "in part without values": (filled((4, 3), half), "w: .* without values", True),
    "reads memory without values": (filled((4, 3), lambda w: w.exp_()), "w: .*reads memory that no", True),
    "multinomial": (
        filled((4,), lambda w: w.copy_(torch.ones(9).multinomial(4))),
        "w: initium does not draw as aten::multinomial does",
        True,
    ),
    "a random value": (
        filled((4,), lambda w: w.fill_(torch.rand(1).item())),
        r"needs the values of a tensor, and these are random \(aten::rand\)",
        True,
    ),
    "a random decision": (filled((4,), lambda w: w.fill_(1.0) if torch.rand(1) > 0.5 else w), "random", True),
    "NumPy's generator": (filled((4, 3), with_numpy), "draws with numpy.random", True),
    "Python's generator": (filled((4, 3), with_python), "draws with Python's module random", True),
    "an outer tensor": (
        filled((2,), lambda w: OUTSIDE.add_(1)),
        "changes a tensor that existed before",
        True,
    ),
    "within a recording": (lambda: recorded(Plain), "recording already", True),
    "an error that the code catches": (filled((4,), with_another_way), "went on after this error", True),
    "another thread": (in_a_thread, "a Linear was built by another thread", True),
    "pickled": (lambda: pickle.loads(pickle.dumps(nn.Linear(2, 2))), "is saved or pickled", True),
    "sparse": (holding(lambda: torch.eye(2).to_sparse()), "makes a sparse tensor", True),
    "a lazy conjugate": (
        holding(lambda: torch.polar(torch.ones(2), torch.ones(2)).conj()),
        "x is a lazy conjugate",
        True,
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_that_name_the_tensor(name):
    make, message, is_recorded = ERRORS[name]
    with pytest.raises((RecordingError, ValueError), match=message):
        ini.init_model(recorded(make) if is_recorded else make(), "own", seed=1)
    assert not OUTSIDE.any()


def test_nothing_is_written_before_an_error():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.second = nn.Parameter(torch.empty(3))

        def init_weights(self):
            self.first.reset_parameters()

    module = Half()
    before = module.first.weight.detach().clone()
    with pytest.raises(RecordingError, match="second"):
        ini.init_model(module, "own", seed=1)
    assert torch.equal(before, module.first.weight)


def test_changes_after_the_recording():
    module = recorded(Plain)
    with torch.device("meta"):
        module.layer = nn.Linear(2, 2)
    with pytest.raises(RecordingError, match=r"layer.weight was added or replaced"):
        ini.init_model(module, "own", seed=1)
    module = drawn(Plain)
    module.layer = nn.Linear(2, 3)
    with pytest.raises(
        RecordingError, match=r"layer\.(weight|bias) is .* expected a model as it was recorded"
    ):
        ini.init_model(module, "own", seed=1)


def test_initialisation_after_the_recording():
    module = recorded(Plain)
    nn.init.zeros_(module.layer.bias)
    with pytest.raises(RecordingError, match=r"layer.bias was changed after the recording"):
        ini.init_model(module, "own", seed=1)


def test_a_part_of_a_drawn_module():
    module = drawn(Plain)
    with pytest.raises(RecordingError, match="weight was drawn already, as a part of another module"):
        ini.init_model(module.layer, "own", seed=2)


def test_hooks_of_parameters_stay():
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))
            self.w.register_hook(lambda gradient: gradient * 0)

    module = drawn(Hooked)
    module.w.sum().backward()
    assert not module.w.grad.any()


def test_arguments():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="rules='theirs'; expected rules, an initializer or 'own'"):
        ini.init_model(layer, "theirs", seed=1)
    with pytest.raises(TypeError, match="params is a dict; expected a torch module"):
        ini.init_model({"w": np.ones(3)}, "own", seed=1)
    with pytest.raises(ValueError, match="dtype='float16' with the rule own"):
        ini.init_model(layer, "own", seed=1, dtype="float16")
    with pytest.raises(ValueError, match=r"params\['weight'\] is on device cpu; expected device=cuda"):
        ini.init_model(layer, "own", seed=1, device="cuda")
    with pytest.raises(ValueError, match="plan_model does not take the rule own"):
        ini.plan_model(layer, "own", seed=1)


def test_attributes_may_change_between_draws():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.noise = torch.rand(3)

        def forward(self, x):
            self.cache = x * 2
            return self.layer(x) + self.noise

    module = drawn(Cached, seed=1)
    noise = module.noise
    first = noise.clone()
    module(torch.ones(1, 3))
    ini.init_model(module, "own", seed=2)
    assert module.noise is noise and not torch.equal(noise, first) and module.cache.tolist() == [[2, 2, 2]]
    ini.init_model(module, "own", seed=1)
    assert torch.equal(noise, first)
