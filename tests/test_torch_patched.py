"""`initium.torch.patched`: code of torch and of other libraries, drawing with initium."""

import math
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import transformers
from peers import Law, p_value
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.init import orthogonal_ as imported_orthogonal_
from torch.nn.init import trunc_normal_ as imported_trunc_normal_
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.initialization import TORCH_INIT_FUNCTIONS

import initium as ini
from initium.torch import init, patched
from initium.torch.seeds import fresh_seed

FALSE_ALARM = 1e-4  # of each statistical test under new seeds
SEED = 11


def drawn(initializer, shape, number=0, seed=SEED, dtype="float32"):
    """What draw `number` of a context is, as a tensor of torch."""
    values = ini.initialize(initializer, shape, seed=seed, name=str(number), dtype=dtype)
    return torch.from_numpy(values.astype(np.float64)).to(getattr(torch, dtype))


def timm_trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0):
    """Truncated normal as timm and others write it."""
    low, high = (0.5 + 0.5 * math.erf((bound - mean) / std / math.sqrt(2)) for bound in (a, b))
    with torch.no_grad():
        tensor.uniform_(2 * low - 1, 2 * high - 1)
        tensor.erfinv_().mul_(std * math.sqrt(2.0)).add_(mean)
        return tensor.clamp_(min=a, max=b)


# --- what is drawn ------------------------------------------------------------------------------------------

BOUND = 1 / math.sqrt(20)
CALLS = {
    "uniform_": (lambda: torch.empty(30, 20).uniform_(-1, 2), ini.Uniform(-1.0, 2.0)),
    "normal_": (lambda: torch.empty(30, 20).normal_(1, 0.5), ini.Normal(1.0, 0.5)),
    "uniform_ of equal bounds": (lambda: torch.empty(30, 20).uniform_(2, 2), ini.Constant(2.0)),
    "normal_ of std 0": (lambda: torch.empty(30, 20).normal_(3, 0), ini.Constant(3.0)),
    "rand": (lambda: torch.rand(30, 20), ini.Uniform(0.0, 1.0)),
    "rand with out": (lambda: torch.rand(30, 20, out=torch.empty(3)), ini.Uniform(0.0, 1.0)),
    "randn": (lambda: torch.randn((30, 20)), ini.Normal()),
    "randn with out": (lambda: torch.randn(30, 20, out=torch.empty(30, 20)), ini.Normal()),
    "rand_like": (lambda: torch.rand_like(torch.empty(30, 20)), ini.Uniform(0.0, 1.0)),
    "randn_like": (lambda: torch.randn_like(torch.empty(30, 20)), ini.Normal()),
    "normal": (lambda: torch.normal(1.0, 0.5, (30, 20)), ini.Normal(1.0, 0.5)),
    "normal with out": (lambda: torch.normal(1.0, 0.5, (30, 20), out=torch.empty(0)), ini.Normal(1.0, 0.5)),
    "normal by a mean": (lambda: torch.normal(torch.zeros(30, 20), 1.0), ini.Normal()),
    "normal by a std": (lambda: torch.normal(0.0, torch.ones(30, 20)), ini.Normal()),
    "normal by both": (lambda: torch.normal(torch.zeros(20), torch.ones(30, 1)), ini.Normal()),
    "normal by both, with out": (
        lambda: torch.normal(torch.zeros(20), torch.ones(30, 1), out=torch.empty(0)),
        ini.Normal(),
    ),
    "functional uniform": (
        lambda: torch.ops.aten.uniform(torch.empty(30, 20), -1, 2),
        ini.Uniform(-1.0, 2.0),
    ),
    "nn.init.uniform_": (lambda: nn.init.uniform_(torch.empty(30, 20), -1, 2), ini.Uniform(-1.0, 2.0)),
    "nn.init.normal_": (lambda: nn.init.normal_(torch.empty(30, 20), 1, 0.5), ini.Normal(1.0, 0.5)),
    "nn.init.xavier_uniform_": (lambda: nn.init.xavier_uniform_(torch.empty(30, 20)), ini.xavier_uniform()),
    "nn.init.xavier_normal_": (lambda: nn.init.xavier_normal_(torch.empty(30, 20)), ini.Normal(0.0, 0.2)),
    "nn.init.kaiming_uniform_": (
        lambda: nn.init.kaiming_uniform_(torch.empty(30, 20), math.sqrt(5)),
        ini.Uniform(-BOUND, BOUND),
    ),
    "nn.init.kaiming_normal_": (
        lambda: nn.init.kaiming_normal_(torch.empty(30, 20), nonlinearity="relu"),
        ini.Normal(0.0, math.sqrt(0.1)),
    ),
    "nn.init.trunc_normal_": (
        lambda: nn.init.trunc_normal_(torch.empty(30, 20), 1.0, 0.5, a=0.0, b=3.0),
        ini.TruncatedNormal(1.0, 0.5, 0.0, 3.0, absolute=True),
    ),
    "trunc_normal_, imported": (
        lambda: imported_trunc_normal_(torch.empty(30, 20), std=0.5),
        ini.TruncatedNormal(0.0, 0.5, -2.0, 2.0, absolute=True),
    ),
    "trunc_normal_ of transformers": (
        lambda: TORCH_INIT_FUNCTIONS["trunc_normal_"](torch.empty(30, 20), std=0.5),
        ini.TruncatedNormal(0.0, 0.5, -2.0, 2.0, absolute=True),
    ),
    "nn.init.orthogonal_": (lambda: nn.init.orthogonal_(torch.empty(30, 20), 2.0), ini.Orthogonal(2.0)),
    "orthogonal_, imported": (lambda: imported_orthogonal_(torch.empty(30, 20), gain=2), ini.Orthogonal(2.0)),
    "nn.init.sparse_": (lambda: nn.init.sparse_(torch.empty(30, 20), 0.3), ini.Sparse(0.3, 0.01)),
}
each_call = pytest.mark.parametrize("call", CALLS)


@each_call
def test_bits_are_those_of_initialize_for_the_number_of_the_draw(call):
    make, initializer = CALLS[call]
    with patched(seed=SEED):
        first, second = make(), make()
    for number, values in enumerate((first, second)):
        expected = drawn(initializer, (30, 20), number)
        if "orthogonal" in call:
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
        else:
            # The scale of some functions passes through other roundings than that of initium's initializers.
            torch.testing.assert_close(values, expected, atol=0, rtol=3e-7)
            if "xavier" not in call and "kaiming" not in call:
                assert torch.equal(values, expected)


@each_call
def test_without_a_seed_torch_reproduces_the_values(call):
    make, _ = CALLS[call]
    torch.manual_seed(5)
    with patched():
        first, second = make(), make()
    torch.manual_seed(5)
    with patched():
        again = make()
    assert torch.equal(first, again)
    assert torch.equal(first, second) == bool(first.std() == 0)


@pytest.mark.parametrize("name", ["uniform_", "normal_", "kaiming_uniform_", "trunc_normal_"])
def test_without_a_seed_values_are_those_of_initium_torch_init(name):
    torch.manual_seed(5)
    with patched():
        values = getattr(nn.init, name)(torch.empty(40, 30))
    torch.manual_seed(5)
    assert torch.equal(values, getattr(init, name)(torch.empty(40, 30)))


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (lambda t: t.uniform_(-0.3, 0.7), Law("uniform", -0.3, 0.7)),
        (lambda t: torch.normal(torch.full_like(t, 1.0), 0.5), Law("normal", 1.0, 0.5)),
        (lambda t: torch.normal(1.0, torch.full_like(t, 0.5)), Law("normal", 1.0, 0.5)),
        (lambda t: torch.randn_like(t), Law("normal", 0.0, 1.0)),
        (lambda t: timm_trunc_normal_(t, 0.5, 0.3, -0.1, 1.1), Law("normal", 0.5, 0.3, 2.0)),
        (lambda t: nn.init.trunc_normal_(t, 0.5, 0.3, -0.1, 1.1), Law("normal", 0.5, 0.3, 2.0)),
    ],
)
def test_values_follow_the_law(make, law):
    with patched(seed=3):
        values = make(torch.empty(300, 300))
    assert p_value(values, law) > FALSE_ALARM
    # Negative controls: another scale, and torch's own draws of it.
    assert p_value(values, law._replace(b=law.b * 1.03)) < FALSE_ALARM
    torch.manual_seed(0)
    assert p_value(make(torch.empty(300, 300)) * 1.03, law) < FALSE_ALARM


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "float8_e5m2"])
def test_dtypes(dtype):
    tensor = torch.empty(50, 3, dtype=getattr(torch, dtype))
    with patched(seed=SEED):
        tensor.normal_(0, 2)
        if dtype != "float8_e5m2":
            other = torch.randn(4, dtype=tensor.dtype)
            assert torch.equal(other, drawn(ini.Normal(), 4, 1, dtype=dtype))
    assert torch.equal(tensor.double(), drawn(ini.Normal(0.0, 2.0), (50, 3), dtype=dtype).double())


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base.t(),
        lambda base: base[1:9:2, 3:],
        lambda base: base[2],
        lambda base: base[3, 4],
        lambda base: base[:0],
        lambda base: base.view(2, 5, 4, 5).permute(3, 1, 0, 2),
    ],
)
def test_views_have_the_values_of_dense_tensors(view):
    base = torch.zeros(10, 20)
    part = view(base)
    with patched(seed=SEED):
        assert part.normal_() is part
    assert torch.equal(part, drawn(ini.Normal(), tuple(part.shape)))
    part.zero_()
    assert not base.any()


def test_values_do_not_depend_on_the_memory_format():
    like = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    with patched(seed=SEED):
        values = torch.randn_like(like)
    assert values.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(values, drawn(ini.Normal(), (2, 3, 4, 5)))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(threads, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with patched(seed=SEED):
            values = torch.randn(300_000)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(values, drawn(ini.Normal(), 300_000))


# --- what torch draws ---------------------------------------------------------------------------------------


class Halves(torch.Tensor):
    """A tensor subclass with operations of its own."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.held = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        func(args[0].held, *args[1:], **(kwargs or {}))
        return args[0]


LEFT = {
    "complex": lambda: torch.randn(5, dtype=torch.complex64),
    "complex in place": lambda: torch.empty(5, dtype=torch.complex64).normal_(),
    "integers": lambda: torch.empty(5, dtype=torch.int64).random_(100),
    "randint": lambda: torch.randint(100, (5,)),
    "randperm": lambda: torch.randperm(20),
    "bernoulli_": lambda: torch.empty(50).bernoulli_(),
    "jagged": lambda: torch.rand_like(
        torch.nested.nested_tensor([torch.ones(2, 1), torch.ones(3, 1)], layout=torch.jagged)
    ).values(),
    "exponential_": lambda: torch.empty(5).exponential_(),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 5),
    "dropout": lambda: nn.functional.dropout(torch.ones(50)),
    "normal_ of a subclass": lambda: Halves(torch.zeros(5)).normal_().held,
    "trunc_normal_ of a subclass": lambda: timm_trunc_normal_(Halves(torch.zeros(5))).held,
}


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_what_initium_cannot_draw_is_drawn_by_torch(name):
    torch.manual_seed(5)
    expected = LEFT[name]()
    for seed in (None, SEED):
        torch.manual_seed(5)
        with patched(seed=seed):
            values = LEFT[name]()
            after = torch.rand(3)
        assert torch.equal(values, expected)
        assert seed is None or torch.equal(after, drawn(ini.Uniform(0.0, 1.0), 3))


def test_meta_and_fake_tensors_stay_without_values():
    with patched(seed=SEED):
        assert nn.Linear(3, 4, device="meta").weight.is_meta
        assert torch.randn(3, device="meta").is_meta
        assert nn.init.trunc_normal_(torch.empty(3, device="meta")).is_meta
        with FakeTensorMode():
            fake = timm_trunc_normal_(torch.randn(3))
            assert torch.normal(fake, 1.0).shape == (3,)
        assert not hasattr(torch.rand(3), "fake_mode")
    with FakeTensorMode(), patched(seed=SEED):
        assert hasattr(nn.init.orthogonal_(torch.randn(3, 3)), "fake_mode")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: torch.empty(3).uniform_(2, 1),
        lambda: torch.empty(3).normal_(0, -1),
        lambda: torch.normal(0.0, -1.0, (3,)),
        lambda: torch.normal(torch.zeros(2), -torch.ones(2)),
        lambda: torch.normal(torch.zeros(2), 1.0, out=torch.empty(3)),
        lambda: torch.randn(3, dtype=torch.int32),
        lambda: torch.randn(-3),
        lambda: torch.rand_like(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        lambda: torch.rand_like(torch.eye(3).to_sparse()),
        lambda: torch.rand(3, generator=5),
        lambda: torch.empty(3, requires_grad=True).normal_(),
        lambda: torch.empty(1).expand(3).normal_(),
        lambda: nn.init.orthogonal_(torch.empty(3)),
        lambda: nn.init.sparse_(torch.empty(3), 0.1),
        lambda: nn.init.trunc_normal_(torch.empty(3), std=0.0),
        lambda: nn.init.trunc_normal_(torch.empty(3), std="a"),
        lambda: nn.init.trunc_normal_(),
        lambda: nn.init.trunc_normal_([1.0]),
        lambda: nn.init.orthogonal_(None),
        lambda: nn.init.normal_(nn.UninitializedParameter()),
        lambda: nn.init.trunc_normal_(nn.UninitializedParameter()),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_errors_are_those_of_torch(wrong):
    with pytest.raises(Exception) as expected:
        wrong()
    with patched(seed=SEED), pytest.raises(expected.type) as raised:
        wrong()
    assert str(raised.value) == str(expected.value)


def test_other_samplers_of_python_and_numpy_are_left():
    expected = np.random.default_rng(0).normal(size=3)
    with patched(seed=SEED):
        assert np.array_equal(np.random.default_rng(0).normal(size=3), expected)


# --- seeds and generators -----------------------------------------------------------------------------------


def test_with_a_seed_the_generators_of_torch_do_not_change():
    state = torch.get_rng_state()
    with patched(seed=SEED):
        nn.init.sparse_(torch.empty(5, 5), 0.5)
        nn.init.orthogonal_(nn.LSTM(3, 5).weight_hh_l0)
        torch.randn(100)
    assert torch.equal(torch.get_rng_state(), state)
    with patched():
        torch.randn(100)
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "call",
    [
        lambda g: torch.empty(8).normal_(generator=g),
        lambda g: torch.rand(8, generator=g),
        lambda g: torch.normal(torch.zeros(8), 1.0, generator=g),
        lambda g: nn.init.trunc_normal_(torch.empty(8), generator=g),
        lambda g: nn.init.orthogonal_(torch.empty(4, 4), generator=g),
        lambda g: nn.init.xavier_uniform_(torch.empty(4, 4), generator=g),
    ],
)
@pytest.mark.parametrize("seed", [None, SEED])
def test_a_generator_of_the_call_decides(call, seed):
    state = torch.get_rng_state()
    with patched(seed=seed):
        generator = torch.Generator().manual_seed(3)
        first, second = call(generator), call(generator)
        again = call(torch.Generator().manual_seed(3))
        assert torch.equal(torch.get_rng_state(), state)
        if seed is not None:  # not counted
            assert torch.equal(torch.rand(3), drawn(ini.Uniform(0.0, 1.0), 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, call(torch.Generator().manual_seed(3)))


def test_the_values_of_a_generator_are_those_of_its_seed():
    with patched(seed=SEED):
        values = torch.randn(8, generator=torch.Generator().manual_seed(3))
    seed = fresh_seed(torch.Generator().manual_seed(3))
    assert torch.equal(values, torch.from_numpy(ini.normal(8, seed=seed)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_wrong_seeds(seed):
    with pytest.raises(ValueError, match="seed"):
        patched(seed=seed)
    with pytest.raises(TypeError, match="seed"):
        patched(seed=0.5)


# --- contexts -----------------------------------------------------------------------------------------------


def test_nested_contexts():
    with patched(seed=SEED):
        first = torch.randn(5)
        with patched(seed=12):
            inner = nn.init.trunc_normal_(torch.empty(5))
        second = nn.init.trunc_normal_(torch.empty(5))
    law = ini.TruncatedNormal(0.0, 1.0, -2.0, 2.0, absolute=True)
    assert torch.equal(first, drawn(ini.Normal(), 5))
    assert torch.equal(inner, drawn(law, 5, seed=12))
    assert torch.equal(second, drawn(law, 5, 1))


def code_of_torch():
    return [getattr(nn.init, name).__code__ for name in ("trunc_normal_", "orthogonal_", "sparse_", "dirac_")]


def is_torch_itself():
    torch.manual_seed(0)
    first = torch.randn(3), nn.init.trunc_normal_(torch.empty(3))
    torch.manual_seed(0)
    with patched():
        second = torch.randn(3), nn.init.trunc_normal_(torch.empty(3))
    return not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_exception_ends_the_context():
    before = code_of_torch()
    with pytest.raises(KeyError), patched(seed=SEED), patched():
        raise KeyError
    with pytest.raises(RuntimeError), patched(seed=SEED):
        torch.empty(3).normal_(0, -1)
    assert code_of_torch() == before
    assert is_torch_itself()


def test_a_generator_that_is_closed_ends_the_context():
    before = code_of_torch()

    def steps():
        with patched(seed=SEED):
            yield torch.rand(3)

    running = steps()
    next(running)
    running.close()
    assert code_of_torch() == before
    assert is_torch_itself()


def test_as_a_decorator():
    @patched(seed=SEED)
    def build(size):
        """Build."""
        return torch.randn(size), torch.randn(size)

    assert build.__doc__ == "Build."
    for first, second in (build(4), build(4)):
        assert torch.equal(first, drawn(ini.Normal(), 4))
        assert torch.equal(second, drawn(ini.Normal(), 4, 1))
    assert is_torch_itself()


def test_other_threads_draw_with_torch():
    torch.manual_seed(0)
    expected = torch.randn(4), nn.init.trunc_normal_(torch.empty(4))
    found = []

    def draw():
        torch.manual_seed(0)
        found.extend((torch.randn(4), nn.init.trunc_normal_(torch.empty(4))))

    with patched(seed=SEED):
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
        assert torch.equal(torch.randn(4), drawn(ini.Normal(), 4))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_each_thread_has_its_own_context():
    start = threading.Barrier(4)
    found = {}

    def build(seed):
        start.wait()
        with patched(seed=seed):
            found[seed] = [imported_trunc_normal_(torch.empty(500)) for _ in range(20)]

    threads = [threading.Thread(target=build, args=(seed,)) for seed in range(4)]
    before = code_of_torch()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    law = ini.TruncatedNormal(0.0, 1.0, -2.0, 2.0, absolute=True)
    for seed, tensors in found.items():
        assert all(torch.equal(t, drawn(law, 500, n, seed)) for n, t in enumerate(tensors))
    assert len(found) == 4
    assert code_of_torch() == before


def test_within_and_around_a_recording():
    with patched(seed=SEED), ini.torch.recording():
        inner = nn.Linear(3, 2)
        nn.init.trunc_normal_(inner.weight)
    with ini.torch.recording(), patched(seed=SEED):
        outer = nn.Linear(3, 2)
        nn.init.trunc_normal_(outer.weight)
    for model in (inner, outer):
        assert model.weight.is_meta
        ini.init_model(model, "own", seed=7)
        law = ini.TruncatedNormal(0.0, 1.0, -2.0, 2.0, absolute=True)
        expected = ini.initialize(law, (2, 3), seed=7, name="weight")
        assert torch.equal(model.weight.detach(), torch.from_numpy(expected))


def test_other_modes_of_the_dispatcher_see_the_operations():
    class Heard(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    names = []
    with patched(seed=SEED), Heard():
        values = nn.init.trunc_normal_(torch.empty(300, 300))
    assert "normal_.default" in names
    assert p_value(values, Law("normal", 0.0, 1.0, 2.0)) > FALSE_ALARM


def test_functions_that_others_replaced(monkeypatch):
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, *args, **kwargs: tensor)
    with patched(seed=SEED):
        assert torch.equal(nn.init.trunc_normal_(torch.ones(3)), torch.ones(3))
        values = imported_trunc_normal_(torch.empty(3))
    law = ini.TruncatedNormal(0.0, 1.0, -2.0, 2.0, absolute=True)
    assert torch.equal(values, drawn(law, 3))


def test_functions_that_were_replaced_before_the_import():
    program = """
import torch
own = torch.nn.init.trunc_normal_
torch.nn.init.trunc_normal_ = lambda *args, **kwargs: None
torch.nn.init.orthogonal_ = print
from initium.torch import patched
with patched(seed=1):
    assert torch.nn.init.trunc_normal_(torch.ones(3)) is None
    own(torch.empty(3))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_compiled_code():
    function = torch.compile(lambda x: x + torch.rand(1000), fullgraph=True, backend="aot_eager")
    with patched(seed=SEED):
        values = function(torch.ones(1000))
        assert torch.equal(torch.rand(4), drawn(ini.Uniform(0.0, 1.0), 4, 1))
    assert p_value(values, Law("uniform", 1.0, 1.5)) < FALSE_ALARM
    assert p_value(values, Law("uniform", 1.0, 2.0)) > FALSE_ALARM


def test_operators_of_higher_order():
    with patched(seed=SEED):
        values = torch.cond(torch.tensor(True), lambda x: x + 1, lambda x: x - 1, (torch.ones(3),))
    assert torch.equal(values, torch.full((3,), 2.0))


# --- autograd -----------------------------------------------------------------------------------------------


def test_parameters_stay_leaves_and_versions_increase_as_in_torch():
    def run():
        parameter = nn.Parameter(torch.empty(4, 4))
        with torch.no_grad():
            parameter.normal_()
        seen = [parameter._version]
        nn.init.uniform_(parameter)
        seen.append(parameter._version)
        seen.append(torch.randn(3, out=torch.empty(3))._version)
        nn.init.orthogonal_(parameter)
        nn.init.trunc_normal_(parameter)
        assert parameter._version >= seen[1] + 2
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.grad_fn is None
        return seen

    expected = run()
    with patched(seed=SEED):
        assert run() == expected


def test_autograd_notices_a_change_of_a_saved_tensor():
    with patched(seed=SEED):
        weight = torch.ones(3, requires_grad=True)
        factor = torch.ones(3)
        for change in (torch.Tensor.normal_, nn.init.trunc_normal_):
            product = (weight * factor).sum()
            change(factor)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.backward()


def test_gradients_pass_as_in_torch():
    with patched(seed=SEED):
        x = torch.ones(3, requires_grad=True)
        noisy = x + torch.randn(3) * 0.1
        noisy.sum().backward()
        assert torch.equal(x.grad, torch.ones(3))
        y = x * 2
        y.uniform_()
        assert y.grad_fn is not None
        mean = torch.zeros(3, requires_grad=True)
        assert torch.rand(3, requires_grad=True).requires_grad
        assert not torch.normal(mean.detach(), 1.0).requires_grad


def test_inference_mode():
    with torch.inference_mode(), patched(seed=SEED):
        values = nn.init.trunc_normal_(torch.empty(5))
        values.normal_()
        assert torch.randn(3).is_inference()
    assert torch.equal(values, drawn(ini.Normal(), 5, 1))
    with patched(seed=SEED), pytest.raises(RuntimeError, match="nference"):
        nn.init.trunc_normal_(values)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap(randomness):
    with patched(seed=SEED):
        noisy = torch.func.vmap(lambda x: x + torch.randn(1000), randomness=randomness)(torch.zeros(4, 1000))
    assert torch.equal(noisy[0], noisy[1]) == (randomness == "same")
    assert p_value(noisy[2], Law("normal", 0.0, 1.0)) > FALSE_ALARM
    with patched(seed=SEED), pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(lambda x: x + torch.randn(3))(torch.zeros(2, 3))


def test_vmap_in_place():
    with patched(seed=SEED):
        rows = torch.func.vmap(torch.Tensor.normal_, randomness="different")(torch.zeros(4, 1000))
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(rows, drawn(ini.Normal(), (4, 1000)))


def test_functional_transforms():
    with patched(seed=SEED):
        gradient = torch.func.grad(lambda x: (x * torch.rand(5)).sum())(torch.ones(5))
        functional = torch.func.functionalize(lambda x: x.normal_())(torch.empty(5))
    assert torch.equal(gradient, drawn(ini.Uniform(0.0, 1.0), 5))
    assert torch.equal(functional, drawn(ini.Normal(), 5, 1))


# --- models -------------------------------------------------------------------------------------------------


def outline(model):
    """All of a model but its values."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first = {}
    return {
        name: (
            tuple(t.shape),
            t.dtype,
            t.stride(),
            t.requires_grad,
            type(t),
            first.setdefault(t.data_ptr(), name) if t.numel() else name,
            bool(torch.isfinite(t).all()),
        )
        for name, t in tensors
    }


def lstm():
    model = nn.LSTM(6, 5, num_layers=2)
    for name, parameter in model.named_parameters():
        if "weight_hh" in name:
            for gate in parameter.chunk(4):
                nn.init.orthogonal_(gate)
        elif "bias" in name:
            nn.init.zeros_(parameter)
    return model


def tiny(name):
    tiny_configs = {
        "gpt2": lambda: transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50),
        "bert": lambda: transformers.BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50
        ),
        "t5": lambda: transformers.T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2, vocab_size=50
        ),
        "mamba": lambda: transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50),
        "vit": lambda: transformers.ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32
        ),
        "whisper": lambda: transformers.WhisperConfig(
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            vocab_size=60,
            pad_token_id=3,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
    }
    classes = {
        "gpt2": transformers.GPT2LMHeadModel,
        "bert": transformers.BertForMaskedLM,
        "t5": transformers.T5ForConditionalGeneration,
        "mamba": transformers.MambaForCausalLM,
        "vit": transformers.ViTForImageClassification,
        "whisper": transformers.WhisperForConditionalGeneration,
    }
    return classes[name](tiny_configs[name]())


MODELS = {
    **{name: (lambda name=name: tiny(name)) for name in ("gpt2", "bert", "t5", "mamba", "vit", "whisper")},
    "transformer": lambda: nn.Transformer(16, 2, 2, 2, 32, batch_first=True),
    "lstm": lstm,
    "batch norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "padding row": lambda: nn.EmbeddingBag(9, 4, padding_idx=2),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(6, 5)),
    "bfloat16": lambda: nn.Linear(6, 5, dtype=torch.bfloat16),
    "multihead": lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, add_bias_kv=True),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_models_are_those_of_torch_but_for_the_random_values(name):
    torch.manual_seed(1)
    plain = MODELS[name]()
    torch.manual_seed(2)
    other = MODELS[name]()
    with patched(seed=SEED):
        model = MODELS[name]()
    with patched(seed=SEED):
        again = MODELS[name]()
    assert outline(model) == outline(plain)
    expected, varied, found = plain.state_dict(), other.state_dict(), model.state_dict()
    for key, value in found.items():
        assert torch.equal(value, again.state_dict()[key])
        same = torch.equal(expected[key], varied[key])
        assert torch.equal(value, expected[key]) == same, key
        if not same and value.numel() >= 200:
            # Two stds of the same law; each has a relative error of about (2 n)**-0.5.
            ratio = float(value.double().std() / expected[key].double().std())
            assert abs(math.log(ratio)) < 6 / math.sqrt(value.numel()), key


def test_copies_of_layers_are_equal_where_they_are_in_torch():
    with patched(seed=SEED):
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False)
        whole = MODELS["transformer"]()

    first, second = (dict(layer.named_parameters()) for layer in encoder.layers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    weights = [layer.linear1.weight for layer in whole.encoder.layers]
    assert not torch.equal(*weights)


def test_gates_of_an_lstm_are_orthogonal():
    with patched(seed=SEED):
        gates = lstm().weight_hh_l0.detach().chunk(4)
    for gate in gates:
        torch.testing.assert_close(gate @ gate.T, torch.eye(5), atol=1e-5, rtol=0)
    assert not torch.equal(gates[0], gates[1])


def test_draws_of_a_model_are_numbered_in_the_order_of_its_code():
    with patched(seed=SEED):
        model = nn.Sequential(
            nn.Embedding(9, 4, padding_idx=2), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False)
        )
    embedding = drawn(ini.Normal(), (9, 4))
    embedding[2] = 0
    assert torch.equal(model[0].weight.detach(), embedding)
    assert torch.equal(model[2].weight.detach(), drawn(ini.Uniform(-0.5, 0.5), (3, 4), 1))


def test_ties_stay():
    with patched(seed=SEED):
        model = tiny("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
