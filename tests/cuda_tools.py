"""What happens where a tool that the proofs of the CUDA source need is missing."""

import os
from typing import NoReturn

import pytest

#: Where this is 1, a missing tool fails the tests that need it.
VARIABLE = "INITIUM_REQUIRE_CUDA_TOOLS"


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where the tools are required."""
    if os.environ.get(VARIABLE) == "1":
        pytest.fail(reason)
    pytest.skip(reason)
