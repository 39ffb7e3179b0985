"""Options of the test run."""

import os
import signal

import pytest

# Keras asks once, when it is imported.
os.environ.setdefault("KERAS_BACKEND", "jax")

#: Each process of ``-n auto`` imports torch, JAX and Keras, about a gigabyte.
MOST_PROCESSES = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    return min(MOST_PROCESSES, os.cpu_count() or 1)


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="run proofs over whole domains (minutes)")


def _heed_signals():
    """Undo what `nohup` and jobs in the background set: processes of tests would ignore signals too."""
    usual = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
    for name, handler in usual.items():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_configure(config):
    _heed_signals()
    config.addinivalue_line("markers", "exhaustive: a proof over a whole domain; needs --exhaustive")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--exhaustive"):
        skip = pytest.mark.skip(reason="needs --exhaustive")
        for item in items:
            if "exhaustive" in item.keywords:
                item.add_marker(skip)
