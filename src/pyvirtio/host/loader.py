"""Loads a device: a shipped one by name or ``file.py:Class``, with options, from sources that stay the same.

A worker that takes over from a dead one has to run the code that the device was started with, whatever was saved
since. So the first worker records what it imported from the device's folder, and the next ones import that.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys

from pyvirtio.device import Device
from pyvirtio.devices import SHIPPED
from pyvirtio.errors import LocalError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Sources = dict[str, bytes]
    """The content of source files, by path."""


class DeviceLoader:
    """Makes instances of the device that ``spec`` names: ``NAME`` or ``file.py:Class``, then ``,option=value``.

    ``device_id`` replaces the device's own. ``given`` are sources to be used instead of the files.

    Raises:
        LocalError: there is no such device, its file cannot be imported, or its options are wrong; one line says why.
    """

    def __init__(self, spec: str, device_id: int | None = None, given: Sources | None = None) -> None:
        name, self._options = spec, dict[str, str]()
        if "," in spec:
            from pyvirtio.device.options import split  # most devices are started without options

            name, self._options = split(spec)
        self._device_id = device_id
        self.sources: Sources = dict(given or {})
        self.kind = self._load(name)

    def new_device(self) -> Device:
        """Make an instance; raises LocalError where an option is wrong."""
        device = self._construct()
        if self._device_id is not None:
            device.device_id = self._device_id
        return device

    def _construct(self) -> Device:
        if not self._options and self.kind.__init__ is object.__init__:
            return self.kind()
        from pyvirtio.device.options import construct

        return construct(self.kind, self._options)

    def watched(self) -> list[str]:
        """Return the files whose change means that the device changed."""
        if self.sources:
            return sorted(self.sources)
        own = getattr(sys.modules.get(self.kind.__module__), "__file__", None)
        return [own] if own else []

    def _load(self, name: str) -> type[Device]:
        where = SHIPPED.get(name, name)
        place, _, class_name = where.rpartition(":")
        if not place or not class_name:
            raise UsageError(
                f"there is no device {name!r}; there are: {', '.join(sorted(SHIPPED))}. "
                "Or give your own as file.py:Class"
            )
        module = importlib.import_module(place) if name in SHIPPED else self._import_file(place)
        found = getattr(module, class_name, None)
        if not (isinstance(found, type) and issubclass(found, Device)):
            classes = [key for key, item in vars(module).items() if isinstance(item, type) and issubclass(item, Device)]
            choice = ", ".join(item for item in classes if item != "Device") or "none"
            raise UsageError(f"{place} has no device {class_name!r}; its devices are: {choice}")
        return found

    def _import_file(self, path: str) -> ModuleType:
        path = os.path.abspath(path)
        if path not in self.sources and not os.path.isfile(path):
            raise UsageError(f"there is no file {path}; give a device as file.py:Class")
        folder, file = os.path.split(path)
        name, suffix = os.path.splitext(file)
        if suffix != ".py":
            raise LocalError(f"{path} is not a Python file; its name has to end in .py")
        sys.path.insert(0, folder)  # what lies beside the file can be imported, as when Python runs it
        sys.meta_path.insert(0, _Finder(folder, self.sources))
        try:
            return importlib.import_module(name)
        except SyntaxError as error:
            raise LocalError(f"{error.filename}, line {error.lineno}: {error.msg}; correct that line") from error
        except LocalError as error:
            raise LocalError(f"{path}: {error}") from error
        except Exception as error:
            raise LocalError(f"{path} cannot be imported: {type(error).__name__}: {error}; mend that first") from error


class _Finder:
    """Finds the modules of one folder, and keeps their sources."""

    def __init__(self, folder: str, sources: Sources) -> None:
        self._folder = folder
        self._sources = sources

    def find_spec(self, name: str, path: Sequence[str] | None, _target: object = None) -> ModuleSpec | None:
        """Return the spec of a module that is a file of the folder; others are not found here."""
        if path is not None or name in sys.builtin_module_names:
            return None
        file = os.path.join(self._folder, f"{name}.py")
        if file not in self._sources and not os.path.isfile(file):
            return None
        return importlib.util.spec_from_file_location(name, file, loader=_Loader(name, file, self._sources))


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from kept sources, or from its file, whose content it keeps."""

    def __init__(self, name: str, path: str, sources: Sources) -> None:
        super().__init__(name, path)
        self._sources = sources

    def path_stats(self, path: str) -> dict[str, float]:
        """Raise: compiled code is not used, for it may be of another version of the file."""
        raise OSError(path)

    def get_data(self, path: str) -> bytes:
        """Return the module's source."""
        if path not in self._sources:
            self._sources[path] = super().get_data(path)
        return self._sources[path]
