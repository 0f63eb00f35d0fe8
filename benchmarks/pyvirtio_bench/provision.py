"""The parts of pyvirtio that fetch, build and cache what a benchmark needs, imported in one place."""

from pyvirtio.provision import cache, packages, progress, sources

__all__ = ["cache", "packages", "progress", "sources"]
