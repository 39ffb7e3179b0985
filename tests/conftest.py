"""Options of the test run."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="run proofs over whole domains (minutes)")


def pytest_configure(config):
    config.addinivalue_line("markers", "exhaustive: a proof over a whole domain; needs --exhaustive")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--exhaustive"):
        skip = pytest.mark.skip(reason="needs --exhaustive")
        for item in items:
            if "exhaustive" in item.keywords:
                item.add_marker(skip)
