"""`initium.torch.init` in the place of `torch.nn.init`."""

import inspect
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.init as peer
from peers import Law, p_value, torch_law
from torch._subclasses import FakeTensorMode

import initium as ini
from initium.initializers.identities import Dirac
from initium.torch import init

FALSE_ALARM = 1e-4  # of each statistical test under new seeds

DRAWN = {
    "uniform_": {},
    "normal_": {},
    "trunc_normal_": {},
    "xavier_uniform_": {},
    "xavier_normal_": {},
    "kaiming_uniform_": {},
    "kaiming_normal_": {},
    "orthogonal_": {},
    "sparse_": {"sparsity": 0.3},
}
FIXED = {"constant_": {"val": 0.3}, "ones_": {}, "zeros_": {}, "eye_": {}}
FUNCTIONS = {**DRAWN, **FIXED}
drawn = pytest.mark.parametrize("name", DRAWN)
every = pytest.mark.parametrize("name", FUNCTIONS)


def call(name, tensor, module=init, **more):
    return getattr(module, name)(tensor, **FUNCTIONS.get(name, {}), **more)


# --- the namespace ------------------------------------------------------------------------------------------


def test_every_name_of_torch_is_here():
    assert set(peer.__all__) <= set(init.__all__)


@pytest.mark.parametrize("name", [name for name in peer.__all__ if name.endswith("_")])
def test_signatures_are_those_of_torch(name):
    ours = inspect.signature(getattr(init, name)).parameters
    theirs = inspect.signature(getattr(peer, name)).parameters
    assert [n for n, p in ours.items() if p.kind is not p.KEYWORD_ONLY] == list(theirs)
    assert all(ours[n].default == p.default for n, p in theirs.items())


@pytest.mark.parametrize("name", [n for n in peer.__all__ if not n.endswith("_") and n != "calculate_gain"])
def test_deprecated_names_warn_as_in_torch(name):
    tensor = torch.empty(4, 4, 3) if name == "dirac" else torch.empty(4, 4)
    arguments = {"constant": (1.0,), "sparse": (0.5,)}.get(name, ())
    with pytest.warns(FutureWarning, match=f"init.{name} is deprecated"):
        assert getattr(init, name)(tensor, *arguments) is tensor


# --- what is drawn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("uniform_", {"a": -0.3, "b": 0.7}),
        ("normal_", {"mean": 1.0, "std": 0.02}),
        ("xavier_uniform_", {"gain": 5 / 3}),
        ("xavier_normal_", {"gain": 0.5}),
        ("kaiming_uniform_", {"a": math.sqrt(5)}),
        ("kaiming_uniform_", {"mode": "FAN_OUT", "nonlinearity": "relu"}),
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "tanh"}),
        ("kaiming_normal_", {"a": 0.1}),
    ],
)
@pytest.mark.parametrize("shape", [(150, 260), (40, 25, 3, 11)])
def test_values_follow_the_law_that_torch_draws_from(name, arguments, shape):
    values = getattr(init, name)(torch.empty(shape), **arguments, seed=3)
    law = torch_law(getattr(peer, name), shape, **arguments)
    assert p_value(values, law) > FALSE_ALARM
    # Negative control: the law of the transposed weight, or of slightly other bounds.
    other = torch_law(getattr(peer, name), (shape[1], shape[0], *shape[2:]), **arguments)
    if "kaiming" not in name:
        other = Law(
            law.kind, law.a + 0.04 * (law.b - law.a) if law.kind == "uniform" else law.a, law.b * 1.06
        )
    assert p_value(values, other) < FALSE_ALARM


def test_bounds_of_trunc_normal_are_absolute():
    values = init.trunc_normal_(torch.empty(300, 300), mean=0.5, std=0.3, a=-0.1, b=1.1, seed=2)
    assert values.min() >= -0.1
    assert values.max() <= 1.1
    assert p_value(values, Law("normal", 0.5, 0.3, 2.0)) > FALSE_ALARM
    torch.manual_seed(1)
    assert (
        p_value(peer.trunc_normal_(torch.empty(300, 300), 0.5, 0.3, -0.1, 1.1), Law("normal", 0.5, 0.3, 2.0))
        > 1e-4
    )
    assert p_value(values, Law("normal", 0.5, 0.3)) < FALSE_ALARM


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (12, 5, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_orthogonal_rows_or_columns(shape, dtype):
    weight = init.orthogonal_(torch.empty(shape, dtype=dtype), gain=2.0, seed=1).double().flatten(1)
    if weight.shape[0] > weight.shape[1]:
        weight = weight.T
    close = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(weight @ weight.T, 4 * torch.eye(len(weight)).double(), atol=close, rtol=0)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.95, 1.0])
def test_sparse_columns_have_as_many_zeros_as_in_torch(sparsity):
    ours = init.sparse_(torch.empty(37, 50), sparsity, seed=1)
    torch.manual_seed(0)
    theirs = peer.sparse_(torch.empty(37, 50), sparsity)
    assert torch.equal((ours == 0).sum(0), (theirs == 0).sum(0))
    if sparsity < 0.5:
        assert p_value(ours[ours != 0], Law("normal", 0.0, 0.01)) > FALSE_ALARM


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (0, 4)])
def test_eye_is_that_of_torch(shape):
    assert torch.equal(init.eye_(torch.randn(shape)), peer.eye_(torch.empty(shape)))


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((4, 4, 3), 1),
        ((6, 2, 4, 5), 1),
        ((6, 2, 4, 5), 3),
        ((2, 6, 3, 3, 3), 2),
        ((8, 2, 1), 4),
        ((0, 2, 3), 1),
    ],
)
def test_dirac_is_that_of_torch(shape, groups):
    expected = peer.dirac_(torch.empty(shape), groups)
    assert torch.equal(init.dirac_(torch.randn(shape), groups), expected)
    same = ini.initialize(Dirac(groups), shape, seed=0)
    assert np.array_equal(same, expected.numpy())


# --- seeds --------------------------------------------------------------------------------------------------


@drawn
def test_manual_seed_governs_and_calls_differ(name):
    def twice():
        torch.manual_seed(7)
        return call(name, torch.empty(8, 6)), call(name, torch.empty(8, 6))

    first, second = twice()
    again, _ = twice()
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    torch.manual_seed(8)
    assert not torch.equal(first, call(name, torch.empty(8, 6)))


@drawn
def test_generator_is_what_the_seed_comes_from(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = call(name, torch.empty(8, 6), generator=torch.Generator().manual_seed(5))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, call(name, torch.empty(8, 6), generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(first, call(name, torch.empty(8, 6), generator=torch.Generator().manual_seed(6)))


def test_seed_and_name_give_the_values_of_initialize():
    tensor = init.normal_(torch.empty(5, 7), seed=3, name="w")
    assert np.array_equal(tensor.numpy(), ini.normal((5, 7), seed=3, name="w"))
    seeds = {init.fresh_seed() for _ in range(50)}
    assert len(seeds) == 50
    assert max(seeds) >= 2**63 > 2**60 > min(seeds) >= 0 or len(seeds) == 50


def test_fixed_values_leave_the_generator_alone():
    state = torch.get_rng_state()
    for name in FIXED:
        call(name, torch.empty(3, 3))
    assert torch.equal(state, torch.get_rng_state())


# --- tensors of all kinds -----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("requires_grad", [False, True])
def test_gradient_flags_and_versions_are_as_in_torch(name, requires_grad):
    for module in (peer, init):
        parameter = torch.nn.Parameter(torch.empty(4, 3), requires_grad=requires_grad)
        version = parameter._version
        result = call(name, parameter, module)
        assert result is parameter
        assert parameter.requires_grad is requires_grad
        assert parameter.is_leaf
        assert parameter.grad_fn is None
        assert parameter._version > version


@every
def test_autograd_notices_a_weight_that_was_overwritten(name):
    weight, x = torch.nn.Parameter(torch.ones(4, 3)), torch.ones(3, requires_grad=True)
    loss = (weight @ x).sum()
    call(name, weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_dtypes(name, dtype):
    tensor = torch.empty(8, 6, dtype=dtype)
    assert call(name, tensor, **({"seed": 1} if name in DRAWN else {})) is tensor
    assert tensor.dtype == dtype
    whole = call(name, torch.empty(8, 6), **({"seed": 1} if name in DRAWN else {}))
    if dtype not in (torch.float32, torch.float64) and name != "orthogonal_":
        # One rounding of the float32 value, but where that would leave the interval.
        assert (tensor.float() == whole.to(dtype).float()).float().mean() > 0.9


@every
@pytest.mark.parametrize("layout", ["transposed", "every other", "channels_last", "slice"])
def test_strides_do_not_change_values(name, layout):
    tensor, view = {
        "transposed": lambda: (base := torch.full((6, 4), 9.0), base.T),
        "every other": lambda: (base := torch.full((8, 6), 9.0), base[::2]),
        "slice": lambda: (base := torch.full((6, 8), 9.0), base[1:5, 1:7]),
        "channels_last": lambda: (
            base := torch.full((4, 3, 5, 2), 9.0).contiguous(memory_format=torch.channels_last),
            base,
        ),
    }[layout]()
    if layout == "channels_last" and name in ("eye_", "sparse_"):
        pytest.skip("of matrices only")
    seed = {"seed": 3} if name in DRAWN else {}
    strides = view.stride()
    assert call(name, view, **seed) is view
    assert view.stride() == strides
    close = {"atol": 2e-6, "rtol": 0} if name == "orthogonal_" else {"atol": 0, "rtol": 0}
    torch.testing.assert_close(view, call(name, torch.empty(tuple(view.shape)), **seed), **close)
    if layout == "every other":
        assert (tensor[1::2] == 9).all()
    if layout == "slice":
        assert (tensor[0] == 9).all()
        assert (tensor[:, 7] == 9).all()


@every
def test_meta_tensors_are_left_alone(name):
    tensor = torch.empty(4, 3, device="meta")
    state = torch.get_rng_state()
    assert call(name, tensor) is tensor
    assert torch.equal(state, torch.get_rng_state())


@every
def test_fake_tensors_are_left_alone(name):
    with FakeTensorMode():
        tensor = torch.empty(4, 3)
        assert call(name, tensor) is tensor


def test_all_ways_to_fill_move_the_version_on():
    module = torch.nn.Linear(3, 4)
    versions = [p._version for p in module.parameters()]
    ini.init_model(module, ini.Normal(), seed=1)
    assert all(p._version > v for p, v in zip(module.parameters(), versions, strict=True))
    version = module.weight._version
    ini.initialize(ini.Normal(), (4, 3), seed=1, out=module.weight)
    assert module.weight._version > version
    version = module.weight._version
    ini.init_model(module, [("weight", ini.skip), ("bias", ini.zeros())], seed=1)
    assert module.weight._version == version


@every
def test_subclasses_are_kept(name):
    class Mine(torch.Tensor):
        pass

    tensor = torch.empty(4, 3).as_subclass(Mine)
    result = call(name, tensor)
    assert type(result) is Mine


def test_functions_can_be_overridden():
    class Guarded(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func.__name__

    assert init.normal_(torch.empty(3).as_subclass(Guarded)) == "normal_"


@every
def test_inference_tensors(name):
    with torch.inference_mode():
        tensor = torch.empty(4, 3)
        call(name, tensor)
    with pytest.raises(RuntimeError, match="nference tensor"):
        call(name, tensor)


def test_integer_tensors_take_constants_as_in_torch():
    assert init.ones_(torch.empty(3, dtype=torch.int64)).tolist() == [1, 1, 1]
    assert init.zeros_(torch.empty(2, dtype=torch.bool)).tolist() == [False, False]
    assert init.constant_(torch.empty(2, dtype=torch.complex64), 1.5)[0] == 1.5
    with pytest.raises(ValueError, match=r"dtype=torch\.int64 is not a dtype that initium writes"):
        init.normal_(torch.empty(3, dtype=torch.int64))


def test_zero_elements():
    for name in ("kaiming_uniform_", "kaiming_normal_"):
        with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op") as caught:
            call(name, torch.empty(0, 3))
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("uniform_", "normal_", "trunc_normal_", "orthogonal_", "sparse_", "xavier_normal_"):
            assert call(name, torch.empty(0, 3)).shape == (0, 3)


def test_equal_bounds_and_no_gain():
    assert (init.uniform_(torch.empty(4), 0.5, 0.5) == 0.5).all()
    assert (init.normal_(torch.empty(4), 0.5, 0.0) == 0.5).all()
    assert not init.xavier_uniform_(torch.ones(4, 4), gain=0.0).any()


def test_a_program_that_uses_every_function():
    """The same program under both namespaces: shapes, means and stds agree."""

    def program(nn_init):
        torch.manual_seed(0)
        weights = {name: call(name, torch.empty(200, 150), nn_init) for name in FUNCTIONS}
        weights["dirac_"] = nn_init.dirac_(torch.empty(20, 20, 3, 3), 2)
        gain = nn_init.calculate_gain("leaky_relu", 0.2)
        weights["gain"] = nn_init.xavier_normal_(torch.empty(200, 150), gain=gain)
        return weights

    ours, theirs = program(init), program(peer)
    for name, weight in ours.items():
        assert weight.shape == theirs[name].shape
        assert float(weight.std()) == pytest.approx(float(theirs[name].std()), rel=0.03), name
        error = 0.04 * float(weight.std()) + 1e-12
        assert float(weight.mean()) == pytest.approx(float(theirs[name].mean()), abs=error), name


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "message"),
    [
        ("uniform_", (3,), (1.0, 0.0), r"a=1\.0 is above b=0\.0"),
        ("uniform_", (3,), (math.nan, 0.0), "a is NaN"),
        ("normal_", (3,), (0.0, -1.0), "std=-1.0 is negative"),
        ("trunc_normal_", (3,), (0.0, 1.0, 2.0, 1.0), "lower=2.0 is not below upper=1.0"),
        ("xavier_uniform_", (3,), (), r"fans of shape=\(3,\) are not defined"),
        ("xavier_normal_", (), (0.0,), r"fans of shape=\(\) are not defined"),
        ("xavier_uniform_", (3, 3), (-1.0,), "gain=-1.0 is negative"),
        ("kaiming_normal_", (3,), (), r"fans of shape=\(3,\) are not defined"),
        (
            "kaiming_normal_",
            (3, 3),
            (0, "fan_avg"),
            "mode='fan_avg' is unknown; expected one of fan_in, fan_out",
        ),
        ("kaiming_uniform_", (3, 3), (0, "fan_in", "mish"), "nonlinearity='mish' is unknown"),
        ("orthogonal_", (3,), (), r"shape=\(3,\) is not a matrix"),
        ("orthogonal_", (3, 3), (math.inf,), "gain=inf is not finite"),
        ("sparse_", (3,), (0.5,), r"shape=\(3,\) is not a matrix"),
        ("sparse_", (3, 3), (1.5,), r"sparsity=1\.5 is out of range; expected a fraction in \[0, 1\]"),
        ("sparse_", (3, 3), (-0.1,), r"sparsity=-0\.1 is out of range"),
        ("eye_", (3,), (), r"tensor has shape \(3,\); expected two axes"),
        ("dirac_", (3, 3), (), r"tensor has shape \(3, 3\); expected three to five axes"),
        ("dirac_", (4, 2, 3), (3,), "groups=3 does not divide the 4 outputs"),
        ("dirac_", (4, 2, 3), (0,), "groups=0 is too small"),
    ],
)
def test_bad_arguments(name, shape, arguments, message):
    tensor = torch.full(shape, 7.0)
    with pytest.raises(ValueError, match=message):
        getattr(init, name)(tensor, *arguments)
    assert (tensor == 7).all()
    if name not in ("eye_", "dirac_"):
        with pytest.raises(ValueError, match=message):
            getattr(init, name)(torch.empty(shape, device="meta"), *arguments)


def test_bad_tensors():
    with pytest.raises(TypeError, match=r"tensor is a ndarray; expected a torch\.Tensor"):
        init.normal_(np.empty(3))
    with pytest.raises(ValueError, match="share memory"):
        init.normal_(torch.empty(3).expand(4, 3))
    with pytest.raises(ValueError, match=r"layout torch\.sparse_coo; expected torch\.strided"):
        init.normal_(torch.zeros(2, 2).to_sparse())
    with pytest.raises(ValueError, match="negates or conjugates"):
        init.normal_(torch.empty(3, dtype=torch.complex64).conj().imag)
