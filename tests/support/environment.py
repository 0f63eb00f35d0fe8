"""The environment of a user, for programs that are started as a user does."""

from __future__ import annotations

import os

OURS = ("COVERAGE", "PYTEST", "MAKE", "MFLAGS")


def of_a_user() -> dict[str, str]:
    """Return this process's environment without what pytest, coverage and a checkout's make have put into it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name != "PYTHON"}
