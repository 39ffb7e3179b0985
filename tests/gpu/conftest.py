"""These tests need an NVIDIA GPU; `ci/gpu` runs them on a machine that has one."""

from functools import cache
from pathlib import Path

import pytest

from initium.memory import cuda

HERE = Path(__file__).parent


@cache
def missing():
    """Return what keeps the tests from running, or None."""
    try:
        cuda.cupy()
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents and missing():
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {missing()}"))


@pytest.fixture(scope="session")
def cupy():
    return cuda.cupy()
