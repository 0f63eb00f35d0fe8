"""The command line: thin commands over the rest.

Results go to stdout, everything else to stderr. Exit status 0 is done, 1 could not be done, 2 wrong usage.
"""

from pyvirtio.cli.main import main

__all__ = ["main"]
