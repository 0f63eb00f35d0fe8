"""What the accelerator gives; its chains look like `pyvirtio.ring.Chain`, and are declared as such."""

from collections.abc import Callable, Sequence
from typing import Any

from pyvirtio.ring.chain import Chain as _Chain

BATCH_PAYS_FROM: int

def full_fence() -> None: ...

class Memory:
    def __new__(cls, regions: list[tuple[int, memoryview]]) -> Memory: ...

class Chain(_Chain): ...

class Batch:
    requests: Any
    order: int
    def take(self) -> _Chain: ...
    def __len__(self) -> int: ...

class Codec:
    def __new__(cls, structure: type[tuple[object, ...]], codes: list[str], usual: Callable[..., object]) -> Codec: ...
    def construct(self, kind: type, /, *values: object, **named: object) -> Any: ...

class Ring:
    memory: Memory
    twice: int | None
    closed: bool
    indexes: tuple[int, int, int, int, int]
    def __new__(
        cls,
        memory: Memory,
        table: memoryview,
        available: memoryview,
        used: memoryview,
        marks: memoryview,
        strikes: memoryview,
        numbers: memoryview,
        size: int,
        event_idx: bool,
        may_indirect: bool,
    ) -> Ring: ...
    def pop(self, limit: int) -> list[_Chain] | None: ...
    def push(self, chains: Sequence[_Chain]) -> None: ...
    def pop_records(self, limit: int, request_size: int, response_size: int) -> Batch | None: ...
    def push_records(self, batch: Batch, answers: Any) -> None: ...
    def answer_records(
        self, batch: Batch, answers: Callable[[Any], Any], most: int, deadline: int, clock: Callable[[], int] | None
    ) -> None: ...
    def call_records(
        self,
        batch: Batch,
        method: Callable[..., object],
        request: Codec,
        response: Codec,
        deadline: int,
        clock: Callable[[], int] | None,
    ) -> object: ...
    def needs_interrupt(self) -> bool: ...
    def disable_kicks(self) -> None: ...
    def enable_kicks(self) -> bool: ...
    def backlog(self) -> int: ...
