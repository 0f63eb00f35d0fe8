"""What pytest may not collect here: the module around the accelerator, where that was not built."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("pyvirtio.ring._native") else ["src/pyvirtio/ring/native_device.py"]
