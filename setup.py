"""The native engine, which is optional, and manual pages. Everything else about the package stands in pyproject.toml.

It is compiled as in a checkout, by pyvirtio.ring.build_native. Where there is nothing to compile it with, the package
is plain Python. One library of the limited API serves every Python from 3.11 on, but for free-threaded ones.
The manual pages are made from the parsers of the command line, by tools/generate-man.
"""

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

manual = runpy.run_path("tools/generate-man")["write"](Path("build/man"))
native = runpy.run_path("src/pyvirtio/ring/build_native.py")


class BuildNative(build_ext):
    """Compiles the native engine with the options that a checkout uses."""

    def build_extension(self, ext: Extension) -> None:
        """Compile it into the folder that becomes the wheel."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not native["build"](native["compiler"](), target):
            raise CompileError("the C compiler refuses the native engine, see above; the Python engine runs instead")


data = [("share/man/man1", manual)]
if native["compiler"]():
    setup(
        data_files=data,
        cmdclass={"build_ext": BuildNative},
        ext_modules=[Extension("pyvirtio.ring._native", [], py_limited_api=True, optional=True)],
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
else:
    setup(data_files=data)
