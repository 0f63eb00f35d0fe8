"""Runs the coroutines of a device: each is begun at once, and only one that really waits goes on as a task.

**Theory of operation.** Making a task for each request takes longer than most requests. So a coroutine is stepped once
by hand. Where it ends in that step, it cost little more than a plain call. Where it waits, it has to go on in a task,
and that task must be the one that the code saw in its first step: `asyncio.timeout` and `asyncio.TaskGroup` remember
it and cancel it later.

So tasks are kept ready. A `_Slot` is what such a task runs: an object with the methods of a coroutine. An idle one
waits for a future of its own, its *bell*. To begin a coroutine, an idle slot's task is made the current one (as
asyncio allows those who extend it), in its own context, and the coroutine is stepped. If it ends, the slot is idle as
before and nobody noticed. If it waits for something, the slot takes it over: the bell is rung, the task wakes, and
waits for that thing in the coroutine's name from then on.

A task that was cancelled is not used again, for it remembers how often.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import (
    _enter_task,
    _leave_task,
    current_task,
)  # documented under "Extending asyncio"; private to keep others away
from collections.abc import Coroutine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    Work = Coroutine[Any, Any, None]
    Done = Callable[[BaseException | None], None]

_ENDED = object()

MAX_IDLE = 64
"""The most tasks that are kept for coroutines to come."""


class _Slot:
    """What a task of the pool runs: one coroutine after the other, and its bell in between."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        context = contextvars.copy_context()
        self.run = context.run
        self._work: Work | None = None
        self._awaited: Any = None
        self._taken_over = False
        self._bell: asyncio.Future[None] | None = None
        self.done: Done | None = None
        """Called with what the coroutine ended with: an exception, or None."""
        self.task: asyncio.Task[None] = tasks.loop.create_task(self, context=context)

    def take_over(self, work: Work, awaited: Any) -> None:
        """Go on with a coroutine that waits for ``awaited``."""
        self._work, self._awaited, self._taken_over = work, awaited, True
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    # What asyncio's task calls.

    def send(self, value: Any) -> Any:
        """Go on; return what is to be awaited next."""
        if self._work is None:
            return self._idle()
        if self._taken_over:
            self._taken_over = False
            awaited, self._awaited = self._awaited, None
            return awaited
        return self._go_on(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        """Go on with an exception: the task was cancelled, or what was awaited failed."""
        self._taken_over, self._awaited = False, None
        if self._work is None:
            self._tasks.forget(self)
            raise error[-1] if isinstance(error[-1], BaseException) else error[0]
        return self._go_on(self._work.throw, *error)

    def close(self) -> None:
        """End without going on: the loop is closing."""
        work, self._work = self._work, None
        if work is not None:
            work.close()

    def __await__(self) -> Generator[Any, None, None]:
        raise TypeError("a slot runs as a task and cannot be awaited")

    def _go_on(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except StopIteration:
            error: BaseException | None = None
        except BaseException as raised:  # noqa: BLE001  # whatever it is, it belongs to the request
            error = raised
        self._work = None
        done, self.done = self.done, None
        if done is not None:
            done(error)
        if self.task.cancelling() or not self._tasks.keep(self):
            self._tasks.forget(self)
            raise StopIteration
        return self._idle()

    def _idle(self) -> asyncio.Future[None]:
        self._bell = self._tasks.loop.create_future()
        self._bell._asyncio_future_blocking = True  # what `yield from` a future tells its task
        return self._bell


class Tasks:
    """The tasks of one event loop for the coroutines of one device."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._idle: list[_Slot] = []
        self._all: set[_Slot] = set()

    def begin(self, work: Work) -> _Slot | None:
        """Step a coroutine for the first time; return the slot that goes on with it, or None if it ended.

        Whoever gets a slot sets its ``done``.

        Raises:
            BaseException: what the coroutine raised.
        """
        idle, loop = self._idle, self.loop
        slot = idle[-1] if idle else self._new_slot()
        task, current = slot.task, current_task(loop)
        if current is not None:
            _leave_task(loop, current)
        _enter_task(loop, task)
        try:
            awaited = slot.run(work.send, None)
        except StopIteration:
            awaited = _ENDED
        finally:
            _leave_task(loop, task)
            if current is not None:
                _enter_task(loop, current)
            if task.cancelling():
                idle.remove(slot)  # it ends by itself
        if awaited is _ENDED:
            return None
        if not task.cancelling():
            idle.remove(slot)
        slot.take_over(work, awaited)
        return slot

    def _new_slot(self) -> _Slot:
        slot = _Slot(self)
        self._all.add(slot)
        self._idle.append(slot)
        return slot

    def keep(self, slot: _Slot) -> bool:
        """Take a slot back whose coroutine ended; return False where there are enough."""
        if len(self._idle) >= MAX_IDLE:
            return False
        self._idle.append(slot)
        return True

    def forget(self, slot: _Slot) -> None:
        """Let go of a slot whose task ends."""
        self._all.discard(slot)
        if slot in self._idle:
            self._idle.remove(slot)

    def close(self) -> list[asyncio.Task[None]]:
        """Cancel everything; return the tasks, which end when the loop runs on."""
        tasks = [slot.task for slot in self._all]
        for task in tasks:
            task.cancel()
        return tasks


Coroutine.register(_Slot)
