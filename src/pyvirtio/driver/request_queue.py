"""The declaration of a driver's queue: its structures and its size."""

from __future__ import annotations

from pyvirtio.driver.answer import AnswerFormat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, overload

    from pyvirtio.driver.bound_queue import BoundQueue
    from pyvirtio.driver.driver import Driver
    from pyvirtio.spec.struct import Struct
else:
    from pyvirtio.system.typing import overload


class RequestQueue:
    """Declares one queue of the device that a `Driver` drives.

    ``request`` is the structure of a request. An answer is read as its declaration says:

    - nothing: an answer is bytes;
    - ``response``: it is that structure;
    - ``response`` and ``data=True``: the structure, and data of any length behind it, as an `Answer`;
    - ``tail``: data of any length, and that structure at the very end, as an `Answer`; a ``response`` precedes them.

    ``size`` is how many entries the driver asks for; the device may allow fewer. Read on an instance of the driver,
    the declaration is a `BoundQueue`, the first of them where `Driver.each_queue` has it several times.
    """

    def __init__(
        self,
        request: type[Struct] | None = None,
        response: type[Struct] | None = None,
        *,
        tail: type[Struct] | None = None,
        data: bool = False,
        size: int = 128,
    ) -> None:
        self.request = request
        self.response = response
        self.answer = AnswerFormat(response, tail, data=data)
        self.size = size
        self.name = ""

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, driver: None, _owner: type) -> Self: ...
    @overload
    def __get__(self, driver: Driver, _owner: type) -> BoundQueue: ...  # noqa: F811  # ruff knows typing's only
    def __get__(self, driver: Driver | None, _owner: type) -> Self | BoundQueue:  # noqa: F811  # as above
        return self if driver is None else driver.bound[self.name][0]
