"""Fixtures of the whole suite, and the seed of the random geometries in the header of every run."""

import os

import helpers
import helpers_explain
import numpy as np
import pytest

from cnn import files
from cnn.backend import use_backend
from cnn.data import cache

# Processors without the instructions for bfloat16 run its kernels nonetheless: slowly, to the same numbers.
os.environ.setdefault("CNN_EMULATE_BF16", "1")

_CACHE = ("HOME", "XDG_CACHE_HOME")


def pytest_report_header(config):
    return f"random geometries: CNN_TEST_SEED={helpers.SEED} repeats them"


@pytest.fixture(autouse=True, scope="session")
def data_caches(tmp_path_factory):
    """Keep caches of the tests' images out of the user's, unless a test says where that is."""
    folder, before = tmp_path_factory.mktemp("caches"), [os.environ.get(name) for name in _CACHE]

    def user_cache_folder():
        same = before == [os.environ.get(name) for name in _CACHE]
        return folder if same else files.user_cache_folder()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "user_cache_folder", user_cache_folder)
        yield


@pytest.fixture(params=helpers.BACKENDS)
def backend(request):
    """Run the test once under each backend."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def rng():
    """A generator with a fixed seed, for tests that need any numbers rather than new ones."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def nodes():
    """The steps of the small network whose page the tests of ``cnn explain`` open."""
    return helpers_explain.make_nodes()


@pytest.fixture(scope="module")
def file(nodes, tmp_path_factory):
    """The page of ``nodes``."""
    path = tmp_path_factory.mktemp("explain") / "page.html"
    path.write_text(helpers_explain.make_page(nodes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    """A browser without a network."""
    yield from helpers_explain.launch()


@pytest.fixture
def read(browser):
    """Open pages; at the end, nothing may have been requested or complained about."""
    readers = []

    def opened(file, *args, **kwargs):
        readers.append(helpers_explain.Reader(browser, file, *args, **kwargs))
        return readers[-1]

    yield opened
    for reader in readers:
        assert not reader.complaints
        assert len(reader.outside()) == 1  # the page itself
        reader.close()
