"""Shared by all tests: caches and runs go to temporary folders, so that no test sees the user's."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache for the whole session: the digits are prepared once."""
    if "GANBENCH_TEST_CACHE" not in os.environ:
        os.environ["GANBENCH_TEST_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["GANBENCH_CACHE"] = os.environ["GANBENCH_TEST_CACHE"]
    return os.environ["GANBENCH_CACHE"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, as a user would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
