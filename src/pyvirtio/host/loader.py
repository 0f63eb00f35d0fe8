"""Finds the class of a device: a shipped one by name, or ``file.py:Class``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

from pyvirtio.device import Device
from pyvirtio.devices import SHIPPED
from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def load_device(name: str, device_id: int | None = None) -> type[Device]:
    """Import the device that ``name`` says, with another virtio id if one is given.

    Raises:
        LocalError: there is none, its file cannot be imported, or it is no device; one line says why.
    """
    where = SHIPPED.get(name, name)
    place, _, class_name = where.rpartition(":")
    if not place or not class_name:
        raise LocalError(
            f"there is no device {name!r}; there are: {', '.join(sorted(SHIPPED))}. Or give your own as file.py:Class"
        )
    module = importlib.import_module(place) if name in SHIPPED else _import_file(place)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Device)):
        classes = [key for key, item in vars(module).items() if isinstance(item, type) and issubclass(item, Device)]
        choice = ", ".join(item for item in classes if item != "Device") or "none"
        raise LocalError(f"{place} has no device {class_name!r}; its devices are: {choice}")
    if device_id is None:
        return found
    return type(found.__name__, (found,), {"device_id": device_id, "__module__": found.__module__})


def sources_of(device: type[Device]) -> list[str]:
    """Give the source files whose change means that the device changed: its own, and what lies beside it."""
    own = getattr(sys.modules.get(device.__module__), "__file__", None) or ""
    folder = os.path.dirname(os.path.abspath(own))
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return sorted(
        {os.path.abspath(file) for file in files if file and os.path.dirname(os.path.abspath(file)) == folder}
    )


def _import_file(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise LocalError(f"there is no file {path}; give a device as file.py:Class")
    folder, file = os.path.split(os.path.abspath(path))
    name = file.removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LocalError(f"{path} is no Python file; its name has to end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, folder)  # what lies beside the file can be imported, as when Python runs it
    sys.dont_write_bytecode = True  # an edit within the same second would otherwise be missed
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise LocalError(f"{path}, line {error.lineno}: {error.msg}") from None
    except LocalError as error:
        raise LocalError(f"{path}: {error}") from None
    except Exception as error:
        raise LocalError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
