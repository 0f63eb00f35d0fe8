"""Programs of others, as Debian packages them: its old release and its newest."""

from __future__ import annotations

import pytest

from tests.support.peers import NEW, OLD, Peers


@pytest.fixture(params=["old", "new"])
def peers(request: pytest.FixtureRequest) -> Peers:
    """Return the programs of the old release, or the newest that are to be had."""
    return Peers.of(OLD if request.param == "old" else NEW)


@pytest.fixture
def new_peers() -> Peers:
    """Return the newest programs that are to be had."""
    return Peers.of(NEW)
