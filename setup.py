"""The native engine, which is optional. Everything else about the package stands in pyproject.toml.

One library of the limited API serves every Python from 3.11 on. A free-threaded Python has no limited API: it gets a
library of its own. setuptools refuses the two together before ``optional`` can help, hence this file.
"""

import sysconfig
from glob import glob

from setuptools import Extension, setup

LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "pyvirtio.ring._native",
            ["src/pyvirtio/ring/_native.c"],
            depends=sorted(glob("src/pyvirtio/ring/native/**/*.*", recursive=True)),
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED_API else [],
            py_limited_api=LIMITED_API,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
