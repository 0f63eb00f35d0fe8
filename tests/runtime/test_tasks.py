"""The pool of tasks: a coroutine that was stepped by hand goes on as if it had been a task from its beginning."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.runtime.tasks import MAX_IDLE, Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

LIMIT = 20.0
STOPPED = asyncio.CancelledError


class Pool:
    """Begins coroutines, and keeps what each ended with; "running" while it goes on."""

    def __init__(self) -> None:
        self.tasks = Tasks(asyncio.get_running_loop())
        self.outcomes: list[Any] = []
        self.slots: list[Any] = []

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Begin one; return its task if it goes on."""
        place = len(self.outcomes)
        self.outcomes.append("running")
        slot = self.tasks.begin(work)
        self.slots.append(slot)
        if slot is None:
            self.outcomes[place] = None
            return None

        def done(error: BaseException | None) -> None:
            self.outcomes[place] = type(error) if error else None

        slot.done = done
        return slot.task

    async def until_all_ended(self) -> None:
        while "running" in self.outcomes:
            await asyncio.sleep(0)

    @property
    def idle(self) -> int:
        return len(self.tasks._idle)


def run(main: Callable[[Pool], Awaitable[Any]]) -> Any:
    """Run a test's coroutine with a pool, which leaves no task behind once it is closed."""

    async def bounded() -> Any:
        pool = Pool()
        before = asyncio.all_tasks()
        result = await asyncio.wait_for(main(pool), LIMIT)
        await asyncio.gather(*pool.tasks.close(), return_exceptions=True)
        assert asyncio.all_tasks() == before
        return result

    return asyncio.run(bounded())


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


# The first step.


def test_what_does_not_wait_has_ended_when_begin_returns():
    async def main(pool: Pool) -> list[int]:
        seen: list[int] = []

        async def work(number: int) -> None:
            seen.append(number)

        for number in range(100):
            assert pool.begin(work(number)) is None
        assert pool.idle == 1  # one task served them all
        return seen

    assert run(main) == list(range(100))


def test_a_coroutine_sees_one_task_before_and_after_it_waits_and_not_its_caller_s():
    async def main(pool: Pool) -> None:
        seen: list[asyncio.Task[Any]] = []

        async def work() -> None:
            for _ in range(3):
                seen.append(this_task())
                await asyncio.sleep(0)
            seen.append(this_task())

        caller = this_task()
        task = pool.begin(work())
        assert this_task() is caller
        await pool.until_all_ended()
        assert set(seen) == {task}
        assert caller not in seen

    run(main)


def test_begin_works_from_a_callback_where_no_task_runs():
    async def main(pool: Pool) -> None:
        loop = asyncio.get_running_loop()
        seen: list[object] = []
        gate = loop.create_future()

        async def work() -> None:
            seen.append(asyncio.current_task())
            await gate
            seen.append(asyncio.current_task())

        def callback() -> None:
            assert asyncio.current_task() is None
            pool.begin(work())
            assert asyncio.current_task() is None
            gate.set_result(None)

        loop.call_soon(callback)
        await gate
        await pool.until_all_ended()
        assert seen[0] is seen[1] is not None

    run(main)


def test_coroutines_begun_within_a_coroutine_have_tasks_of_their_own():
    async def main(pool: Pool) -> None:
        seen: dict[str, asyncio.Task[Any]] = {}

        async def inner() -> None:
            seen["inner"] = this_task()
            await asyncio.sleep(0)

        async def outer() -> None:
            seen["outer"] = this_task()
            pool.begin(inner())
            assert this_task() is seen["outer"]
            await asyncio.sleep(0)
            assert this_task() is seen["outer"]

        pool.begin(outer())
        await pool.until_all_ended()
        assert pool.outcomes == [None, None]
        assert seen["inner"] is not seen["outer"]

    run(main)


def test_a_value_that_was_awaited_arrives():
    async def main(pool: Pool) -> list[object]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(3)]
        seen: list[object] = []

        async def work() -> None:
            seen.extend([await future for future in futures])

        pool.begin(work())
        for number, future in enumerate(futures):
            future.set_result(number)
        await pool.until_all_ended()
        return seen

    assert run(main) == [0, 1, 2]


def test_what_is_done_before_the_task_has_woken_is_not_missed():
    async def main(pool: Pool) -> None:
        future = asyncio.get_running_loop().create_future()

        async def work() -> None:
            assert await future == 7

        pool.begin(work())
        future.set_result(7)  # in the same round of the loop
        await pool.until_all_ended()
        assert pool.outcomes == [None]

    run(main)


@pytest.mark.parametrize("rounds", range(3))
def test_many_may_wait_for_the_same_future_whether_they_are_tasks_or_not(rounds: int):
    async def main(pool: Pool) -> list[int]:
        gate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        seen: list[int] = []

        async def work() -> None:
            seen.append(await gate)

        pool.begin(work())
        plain = asyncio.create_task(work())
        for _ in range(5):
            pool.begin(work())
            for _ in range(rounds):
                await asyncio.sleep(0)
        gate.set_result(7)
        await plain
        await pool.until_all_ended()
        assert pool.outcomes == [None] * 6
        return seen

    assert run(main) == [7] * 7


# Time-outs, groups, and whatever else remembers its task.


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.001])
def test_asyncio_timeout_in_the_first_step_ends_its_own_block(seconds: float):
    async def main(pool: Pool) -> list[str]:
        seen: list[str] = []

        async def work() -> None:
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                seen.append("late")
            await asyncio.sleep(0)
            seen.append("goes on")

        pool.begin(work())
        await pool.until_all_ended()
        assert pool.outcomes == [None]
        return seen

    assert run(main) == ["late", "goes on"]


def test_a_time_out_that_does_not_happen_reaches_nobody_later():
    async def main(pool: Pool) -> None:
        async def work() -> None:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(0)

        for _ in range(3):
            pool.begin(work())
            await pool.until_all_ended()
        await asyncio.sleep(0.02)
        assert pool.outcomes == [None] * 3
        assert pool.idle == 1  # the same task each time, and it is well

    run(main)


def test_a_task_group_in_the_first_step_ends_with_the_failure_of_its_child():
    async def main(pool: Pool) -> set[str]:
        seen: set[str] = set()

        async def child(number: int) -> None:
            if number == 2:
                raise ValueError("2")
            try:
                await asyncio.get_running_loop().create_future()
            except STOPPED:
                seen.add(f"child {number} cancelled")
                raise

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(child(number))
                await asyncio.get_running_loop().create_future()

        pool.begin(work())
        await pool.until_all_ended()
        assert pool.outcomes == [ExceptionGroup]
        return seen

    assert run(main) == {"child 0 cancelled", "child 1 cancelled"}


def test_a_task_group_waits_for_its_children():
    async def main(pool: Pool) -> set[int]:
        seen: set[int] = set()

        async def child(number: int) -> None:
            await asyncio.sleep(0)
            seen.add(number)

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(5):
                    group.create_task(child(number))
            assert len(seen) == 5

        pool.begin(work())
        await pool.until_all_ended()
        assert pool.outcomes == [None]
        return seen

    assert run(main) == set(range(5))


# Cancellation, at every point.


def test_a_coroutine_that_cancels_itself_in_its_first_step_and_ends_takes_nobody_along():
    async def main(pool: Pool) -> None:
        async def reckless() -> None:
            this_task().cancel()

        async def work() -> None:
            await asyncio.sleep(0)

        assert pool.begin(reckless()) is None
        pool.begin(work())
        await pool.until_all_ended()
        assert pool.outcomes == [None, None]

    run(main)


def test_a_coroutine_that_cancels_itself_in_its_first_step_is_cancelled_where_it_waits():
    async def main(pool: Pool) -> list[str]:
        seen: list[str] = []

        async def reckless() -> None:
            this_task().cancel()
            seen.append("goes on")
            await asyncio.sleep(0)
            seen.append("never")

        pool.begin(reckless())
        await pool.until_all_ended()
        assert pool.outcomes == [STOPPED]
        return seen

    assert run(main) == ["goes on"]


@pytest.mark.parametrize("rounds", range(4))
def test_cancelling_while_it_waits_ends_it_with_what_it_waits_for(rounds: int):
    """Before the task has woken for the first time (0), and later; the child is what a plain task would cancel."""

    async def main(pool: Pool) -> None:
        children: list[asyncio.Task[None]] = []

        async def forever() -> None:
            await asyncio.get_running_loop().create_future()

        async def work() -> None:
            children.append(asyncio.create_task(forever()))
            await children[0]

        task = pool.begin(work())
        assert task is not None
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        await pool.until_all_ended()
        assert pool.outcomes == [STOPPED]
        await asyncio.sleep(0)
        assert children[0].cancelled()

    run(main)


@pytest.mark.parametrize("rounds", range(4))
def test_what_ignores_its_cancellation_goes_on_and_its_task_serves_nobody_else(rounds: int):
    async def main(pool: Pool) -> None:
        gate = asyncio.get_running_loop().create_future()

        async def stubborn() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except STOPPED:
                await gate

        task = pool.begin(stubborn())
        assert task is not None
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert pool.outcomes == ["running"]
        gate.set_result(None)
        await pool.until_all_ended()
        assert pool.outcomes == [None]
        await asyncio.sleep(0)
        assert task.done()
        assert pool.idle == 0

    run(main)


@pytest.mark.parametrize("rounds", range(3))
def test_a_late_cancel_of_an_idle_task_hits_nobody(rounds: int):
    """Somebody kept the task of a coroutine that ended, and cancels it just before the next one begins, or earlier."""

    async def main(pool: Pool) -> None:
        async def first() -> None:
            await asyncio.sleep(0)

        async def second() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        stale = pool.begin(first())
        assert stale is not None
        await pool.until_all_ended()
        stale.cancel()
        for _ in range(rounds):
            await asyncio.sleep(0)
        pool.begin(second())
        await pool.until_all_ended()
        assert pool.outcomes == [None, None]
        assert stale.cancelled()

    run(main)


# Exceptions.


def test_the_first_step_raises_to_whoever_begins_it():
    async def main(pool: Pool) -> None:
        async def work(error: BaseException) -> None:
            raise error

        for error in (ValueError("no"), SystemExit(3)):
            with pytest.raises(type(error)):
                pool.tasks.begin(work(error))
        with pytest.raises(RuntimeError) as raised:  # an exception that no `except Exception` would let pass
            pool.tasks.begin(work(asyncio.CancelledError()))
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)
        assert pool.idle == 1

    run(main)


@pytest.mark.parametrize("error", [ValueError("no"), STOPPED(), ExceptionGroup("two", [ValueError(), KeyError()])])
def test_a_later_step_gives_its_exception_to_done_and_the_task_goes_on(error: BaseException):
    async def main(pool: Pool) -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            raise error

        for _ in range(3):
            pool.begin(work())
            await pool.until_all_ended()
        assert pool.outcomes == [type(error)] * 3
        assert pool.idle == 1

    run(main)


def test_what_was_awaited_raises_inside_the_coroutine():
    async def main(pool: Pool) -> list[str]:
        future = asyncio.get_running_loop().create_future()
        seen: list[str] = []

        async def work() -> None:
            try:
                await future
            except ValueError as error:
                seen.append(str(error))

        pool.begin(work())
        future.set_exception(ValueError("no"))
        await pool.until_all_ended()
        assert pool.outcomes == [None]
        return seen

    assert run(main) == ["no"]


# Contexts.


def test_each_coroutine_has_a_context_of_its_own_and_keeps_it():
    async def main(pool: Pool) -> None:
        variable = contextvars.ContextVar("variable", default="nobody's")
        variable.set("the caller's")
        seen: list[str] = []

        async def work(value: str, *, waits: bool) -> None:
            seen.append(variable.get())
            variable.set(value)
            if waits:
                await asyncio.sleep(0)
                assert variable.get() == value
                await asyncio.sleep(0)
                assert variable.get() == value

        for number in range(6):
            pool.begin(work(str(number), waits=number % 2 == 0))
            if number > 2:
                await pool.until_all_ended()
        await pool.until_all_ended()
        assert pool.outcomes == [None] * 6
        assert seen == ["the caller's"] * 6
        assert variable.get() == "the caller's"

    run(main)


def test_what_a_coroutine_schedules_has_its_context():
    async def main(pool: Pool) -> list[str]:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
        seen: list[str] = []

        async def work(value: str) -> None:
            loop = asyncio.get_running_loop()
            variable.set(value)
            loop.call_soon(lambda: seen.append(variable.get()))
            await asyncio.sleep(0)
            await asyncio.create_task(note())
            loop.call_soon(lambda: seen.append(variable.get()))
            await asyncio.sleep(0)

        async def note() -> None:
            seen.append(variable.get())

        for value in ("a", "b"):
            pool.begin(work(value))
            await pool.until_all_ended()
        return seen

    assert run(main) == ["a"] * 3 + ["b"] * 3


# How many tasks there are.


def test_the_pool_grows_with_what_waits_and_shrinks_to_what_it_keeps():
    async def main(pool: Pool) -> None:
        gate = asyncio.get_running_loop().create_future()

        async def work() -> None:
            await gate

        before = len(asyncio.all_tasks())
        for _ in range(3 * MAX_IDLE):
            pool.begin(work())
        assert len(asyncio.all_tasks()) == before + 3 * MAX_IDLE
        gate.set_result(None)
        await pool.until_all_ended()
        await asyncio.sleep(0)
        assert pool.idle == MAX_IDLE
        assert len(asyncio.all_tasks()) == before + MAX_IDLE
        for _ in range(MAX_IDLE):
            pool.begin(work())  # the gate is open: none of them waits
        assert len(asyncio.all_tasks()) == before + MAX_IDLE

    run(main)


@pytest.mark.parametrize("rounds", range(3))
def test_closing_ends_what_runs_and_what_is_idle(rounds: int):
    async def main(pool: Pool) -> None:
        cleaned: list[int] = []

        async def work(number: int) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)
                cleaned.append(number)

        async def short() -> None:
            await asyncio.sleep(0)

        for _ in range(3):
            pool.begin(short())
        await pool.until_all_ended()
        for number in range(5):
            pool.begin(work(number))
        for _ in range(rounds):
            await asyncio.sleep(0)
        tasks = pool.tasks.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.done() for task in tasks)
        assert sorted(cleaned) == list(range(5))
        assert pool.outcomes == [None] * 3 + [STOPPED] * 5

    run(main)


def test_a_loop_that_closes_without_the_pool_ends_what_runs():
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("work")

    async def main() -> None:
        pool = Pool()
        pool.begin(work())
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ended == ["work"]
