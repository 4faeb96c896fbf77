"""What a test registers is gone behind it."""

import pytest

from tests import parts


@pytest.fixture(autouse=True)
def _as_before():
    with parts.as_before():
        yield


@pytest.fixture
def shards(tmp_path):
    return parts.shard(tmp_path / "0.tar")
