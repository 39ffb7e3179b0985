"""Stream version 1: the values in golden/stream_v1.json never change."""

import json

import numpy as np
import pytest
from cases import DISTRIBUTIONS, DTYPES, SEED
from golden import write

import initium as ini
from initium.kernels import stream

GOLDEN = json.loads(write.FILE.read_text())


def test_the_file_is_of_this_stream_version():
    assert GOLDEN["stream_version"] == stream.STREAM_VERSION == 1
    assert GOLDEN["seed"] == SEED
    assert set(GOLDEN["values"]) == set(DISTRIBUTIONS)
    assert all(set(entries) == set(DTYPES) for entries in GOLDEN["values"].values())


def test_bits():
    assert ini.bits(16, seed=SEED, name="golden.bits").astype("<u4").tobytes().hex() == GOLDEN["bits"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_values(name, dtype):
    assert write.entry(name, dtype) == GOLDEN["values"][name][dtype]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_values_of_the_reference(name):
    assert write.entry(name, "float32", "numpy") == GOLDEN["values"][name]["float32"]


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name != "constant"])
@pytest.mark.parametrize("change", [{"seed": SEED + 1}, {"name": "golden"}])
def test_other_seeds_and_names_are_noticed(name, change):
    held = GOLDEN["values"][name]["float32"]
    for part in write.PARTS:
        assert write.summary(write.draw(name, "float32", part, **change)) != held[part]


def test_one_changed_bit_is_noticed():
    values = write.draw("normal", "float32", "start")
    assert write.summary(values) == GOLDEN["values"]["normal"]["float32"]["start"]
    values.view(np.uint32)[-1] ^= 1
    assert write.summary(values) != GOLDEN["values"]["normal"]["float32"]["start"]


def test_entries_differ_from_each_other():
    # Constants repeat themselves; every other digest stands once.
    digests = [
        entry[part]
        for name, entries in GOLDEN["values"].items()
        if name != "constant"
        for entry in entries.values()
        for part in write.PARTS
    ]
    assert len(digests) > 200
    # Narrow dtypes have few values within the narrow intervals, but thousands of them in a row differ.
    assert len(set(digests)) == len(digests)


def test_only_additions_are_written():
    held = GOLDEN["values"]
    assert write.changed(held, {**held, "new": held["normal"]}) == []
    assert len(write.changed(held, {**held, "normal": held["uniform"]})) == len(DTYPES)
