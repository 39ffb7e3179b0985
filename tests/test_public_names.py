"""The names that users rely on: none goes away or moves by accident."""

import json
from importlib import import_module
from pathlib import Path

import pytest

LISTED = json.loads((Path(__file__).parent / "golden" / "public_names.json").read_text())


@pytest.mark.parametrize("module", LISTED)
def test_public_names(module):
    found = import_module(module)
    assert sorted(found.__all__) == LISTED[module]
    assert all(hasattr(found, name) for name in found.__all__)
    assert set(LISTED[module]) <= {*dir(found)}


def test_names_for_streaming_a_checkpoint():
    checkpoint = import_module("initium.checkpoint")
    assert {"init_checkpoint", "plan_checkpoint", "run_checkpoint"} <= set(checkpoint.__all__)
