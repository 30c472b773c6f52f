"""The tiny data root and its prepared sources, made once for all tests."""

import pytest
from tiny_clevrer import write_root

from jax_vidpred.data.builder import prepare


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("clevrer"))


@pytest.fixture(scope="session")
def prepared(data_root, tmp_path_factory):
    """Sources of all splits: 16x24 pixels, flow on a grid of 4x6, stride 1."""
    out = tmp_path_factory.mktemp("prepared")
    return prepare(data_root, out, height=16, width=24, grid_stride=4)
