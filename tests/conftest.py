"""Loads what the tests share, in each process that runs tests."""

from __future__ import annotations

import pytest

pytest_plugins = ("tests.helpers.hung", "tests.helpers.spread")


def pytest_configure(config: pytest.Config) -> None:
    """Load the service, but not in the process that hands the tests out to others: it starts them at once."""
    hands_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("tests.helpers.services")
