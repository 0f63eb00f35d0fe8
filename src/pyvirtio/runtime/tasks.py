"""Runs the coroutines of a device: each is begun at once, and only one that really waits goes on as a task.

**Theory of operation.** Making a task for each request takes longer than most requests. So a coroutine is stepped once
by hand. Where it ends in that step, it cost little more than a plain call. Where it waits, it has to go on in a task,
and that task must be the one that the code saw in its first step: `asyncio.timeout` and `asyncio.TaskGroup` remember
it and cancel it later.

So tasks are kept ready. A `_Slot` is what such a task runs: an object with the methods of a coroutine. An idle one
waits for a future of its own, its *bell*. To begin a coroutine, an idle slot's task is made the current one (as
asyncio allows those who extend it), and the coroutine is stepped, in a context of its own as every task's. If it ends,
the slot is idle as before and nobody noticed. If it waits for a future, the slot steps it in the same way when that is
done, and its task still waits for the bell: to wake it would take as long again. If it waits for anything else, or the
task is cancelled, the task wakes, by its bell, and goes on with the coroutine as with one of its own.

A task that was cancelled is not used again, for it remembers how often, and whoever kept it may cancel it late.
"""

from __future__ import annotations

import asyncio
from asyncio import (
    _enter_task,
    _leave_task,
    current_task,
)  # documented under "Extending asyncio"; private to keep others away
from collections.abc import Coroutine
from contextvars import copy_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator
    from typing import Any

    Work = Coroutine[Any, Any, None]
    Done = Callable[[BaseException | None], None]

_ENDED = object()

_FUTURES = (asyncio.Future, asyncio.Task)

MAX_IDLE = 256
"""The most tasks that are kept for coroutines to come."""


class _Slot:
    """What a task of the pool runs: one coroutine after the other, and its bell in between."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._work: Work | None = None
        self._context: contextvars.Context | None = None
        self._awaited: Any = None
        self._blocking = False
        self._taken_over = False
        self.bell: asyncio.Future[None] | None = None
        """What its task waits for while it is idle; None before it waits for the first time."""
        self.done: Done | None = None
        """Called with what the coroutine ended with: an exception, or None."""
        self.task: asyncio.Task[None] = tasks.loop.create_task(self)

    def take_over(self, work: Work, context: contextvars.Context, awaited: Any) -> None:
        """Go on with a coroutine that waits for ``awaited``."""
        self._work, self._context = work, context
        self._wait_for(awaited)

    def _wait_for(self, awaited: Any) -> None:
        self._awaited, self._taken_over = awaited, True
        # A future that is awaited is marked until its task has seen it; meanwhile nobody else could await it.
        if blocking := getattr(awaited, "_asyncio_future_blocking", False):
            awaited._asyncio_future_blocking = False
        self._blocking = blocking
        if self.bell is None or self.bell.done():
            return  # the task wakes in any case
        if blocking and type(awaited) in _FUTURES and awaited.get_loop() is self._tasks.loop:
            awaited.add_done_callback(self._arrived, context=self._context)
        elif awaited is None:
            self._tasks.loop.call_soon(self._arrived, None, context=self._context)
        else:
            self.bell.set_result(None)

    def _arrived(self, awaited: Any) -> None:
        """Step the coroutine, in whose context this is called: what it waited for is done."""
        if self._awaited is not awaited or self._work is None or self.bell is None or self.bell.done():
            return  # the task was cancelled, and goes on with it
        loop, work = self._tasks.loop, self._work
        self._awaited, self._taken_over = None, False
        error: BaseException | None = None
        _enter_task(loop, self.task)
        try:
            awaited = work.send(None)
        except StopIteration:
            pass
        except BaseException as raised:  # noqa: BLE001  # whatever it is, it belongs to the request
            error = raised
        else:
            self._wait_for(awaited)
            return
        finally:
            _leave_task(loop, self.task)
        if not self._end(error) and not self.task.cancelling():
            self.task.cancel()  # nobody needs it any more

    # What asyncio's task calls.

    def send(self, value: Any) -> Any:
        """Go on; return what is to be awaited next."""
        if self._work is None:
            return self._idle()
        if self._taken_over:
            return self._handed_over()
        return self._go_on(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        """Go on with an exception: the task was cancelled, or what was awaited failed."""
        if self._work is None:
            self._tasks.forget(self)
            raise error[-1] if isinstance(error[-1], BaseException) else error[0]
        # Cancelled while it slept: as every task, it passes that on to what it waits for, and waits for the outcome.
        if self._taken_over and (awaited := self._handed_over()) is not None and self._blocking and awaited.cancel():
            return awaited
        return self._go_on(self._work.throw, *error)

    def close(self) -> None:
        """End without going on: the loop is closing."""
        work, self._work = self._work, None
        if work is not None and self._context is not None:
            self._context.run(work.close)

    def __await__(self) -> Generator[Any, None, None]:
        raise TypeError("a slot runs as a task and cannot be awaited")

    def _handed_over(self) -> Any:
        awaited, self._awaited, self._taken_over = self._awaited, None, False
        if self._blocking:
            awaited._asyncio_future_blocking = True
        return awaited

    def _go_on(self, step: Callable[..., Any], *arguments: Any) -> Any:
        assert self._context is not None
        try:
            return self._context.run(step, *arguments)
        except StopIteration:
            error: BaseException | None = None
        except BaseException as raised:  # noqa: BLE001  # whatever it is, it belongs to the request
            error = raised
        if self._end(error):
            return self._idle()
        raise StopIteration

    def _end(self, error: BaseException | None) -> bool:
        """Let go of a coroutine that has ended; return whether the task is kept for others."""
        self._work = self._context = None
        done, self.done = self.done, None
        if done is not None:
            done(error)
        if self.task.cancelling() or not self._tasks.keep(self):
            self._tasks.forget(self)
            return False
        return True

    def _idle(self) -> asyncio.Future[None]:
        self.bell = self._tasks.loop.create_future()
        self.bell._asyncio_future_blocking = True  # what `yield from` a future tells its task
        return self.bell


class Tasks:
    """The tasks of one event loop for the coroutines of one device."""

    cancelled = asyncio.CancelledError
    """What a coroutine raises that was cancelled, or awaited what was; here for those who do not import ``asyncio``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._idle: list[_Slot] = []
        self._all: set[_Slot] = set()
        self._lent: _Slot | None = None

    def begin(self, work: Work) -> _Slot | None:
        """Step a coroutine for the first time; return the slot that goes on with it, or None if it ended.

        Whoever gets a slot sets its ``done``.

        Raises:
            BaseException: what the coroutine raised; RuntimeError where it was cancelled.
        """
        loop, slot, context = self.loop, self._take_idle(), copy_context()
        task, current = slot.task, current_task(loop)
        awaited: Any = _ENDED
        if current is not None:
            _leave_task(loop, current)
        _enter_task(loop, task)
        try:
            awaited = context.run(work.send, None)
        except StopIteration:
            return None
        except asyncio.CancelledError as error:  # of something that it awaited: nobody has cancelled the coroutine
            raise RuntimeError("what the method waited for was cancelled") from error
        finally:
            _leave_task(loop, task)
            if current is not None:
                _enter_task(loop, current)
            if awaited is _ENDED and not task.cancelling():  # a cancelled one ends by itself
                self._idle.append(slot)
        slot.take_over(work, context, awaited)
        return slot

    def lend(self, steps: Callable[..., Any], *arguments: object) -> tuple[Any, contextvars.Context]:
        """Call ``steps``, which steps coroutines one after the other, and return what it returns.

        An idle slot's task is the current one meanwhile, in a context of its own: so ``steps`` need not enter them for
        each coroutine. It is given the task, the bell that a cancellation of the task rings, and the context. The same
        slot is lent the next time, unless somebody has it `go_on` with a coroutine.
        """
        loop, slot, context = self.loop, self._lent, copy_context()
        if slot is None or slot.task.cancelling():
            slot = self._take_idle()
        self._lent = None  # not for others meanwhile
        task = slot.task
        if (current := current_task(loop)) is not None:
            _leave_task(loop, current)
        _enter_task(loop, task)
        try:
            return context.run(steps, *arguments, task, slot.bell, context), context
        finally:
            _leave_task(loop, task)
            if current is not None:
                _enter_task(loop, current)
            self._lent = slot

    def go_on(self, work: Work, context: contextvars.Context, awaited: Any) -> _Slot:
        """Have the slot that was lent go on with a coroutine that was stepped in it, and waits for ``awaited``."""
        slot, self._lent = self._lent, None
        assert slot is not None
        slot.take_over(work, context, awaited)
        return slot

    def _take_idle(self) -> _Slot:
        idle = self._idle
        while idle:
            slot = idle.pop()
            if not slot.task.cancelling():
                return slot
        slot = _Slot(self)
        self._all.add(slot)
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
