"""The catalogue is complete, says where everything comes from, and is printed up to date."""

import inspect
from pathlib import Path

import numpy as np
import pytest

import initium as ini
from initium.initializers import basic, catalogue, filters, orthogonal, peers, scaling, sparse, unit_ball
from initium.initializers.basic import Initializer
from initium.initializers.catalogue import CATALOGUE, MAKERS

DOCUMENT = Path(__file__).parents[1] / "docs" / "catalogue.md"

ARGUMENTS = {
    "constant": {"value": 0.5},
    "sparse": {"sparsity": 0.5},
    "torch_bias": {"fan_in": 7},
    "torch_rnn": {"hidden_size": 7},
}
SHAPES = {"dirac": (5, 4, 3), "delta_orthogonal": (5, 4, 3), "stft": (8, 1, 5), "bilinear": (2, 3, 4, 4)}
every = pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text(encoding="utf-8") == catalogue.markdown(), (
        "run: python -m initium.initializers.catalogue > docs/catalogue.md"
    )


@pytest.mark.parametrize(
    "module", [basic, scaling, orthogonal, peers, filters, sparse, unit_ball], ids=lambda m: m.__name__
)
def test_every_public_function_is_listed(module):
    made = {name for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    assert made <= set(MAKERS)


@every
def test_entries_say_what_they_are(entry):
    assert entry.formula
    assert not entry.formula.endswith(".")
    assert entry.source or entry.peers
    assert entry.name == entry.name.lower()


@every
def test_entries_make_initializers(entry):
    initializer = entry.maker(**ARGUMENTS.get(entry.name, {}))
    assert isinstance(initializer, Initializer)
    shape = SHAPES.get(entry.name, (6, 4))
    fill = initializer.resolve(shape)
    values = ini.initialize(initializer, shape, seed=1, dtype="bfloat16").astype(np.float64)
    assert np.isfinite(values).all()
    # Mean and std that the fill states, within 6 standard errors and the rounding of bfloat16.
    assert values.mean() == pytest.approx(
        fill.mean, abs=6 * fill.std / np.sqrt(values.size) + 0.01 * fill.std + 1e-3
    )
    if fill.std:
        assert 0.4 < values.std() / fill.std < 1.8


@every
def test_entries_are_at_the_top_level(entry):
    if inspect.isclass(entry.maker):
        assert getattr(ini, entry.maker.__name__) is entry.maker
    else:
        assert all(getattr(ini, name) is entry.maker for name in (entry.name, *entry.aliases))


def test_aliases_are_the_same_functions():
    assert MAKERS["kaiming_normal"] is MAKERS["msra_normal"] is MAKERS["he_normal"]
    assert MAKERS["xavier_uniform"] is MAKERS["normalised_xavier"] is MAKERS["glorot_uniform"]
    assert MAKERS["orthogonal"] is orthogonal.Orthogonal
