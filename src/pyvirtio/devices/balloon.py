"""A memory balloon (VIRTIO 1.4, 5.5): memory that a guest lends to the host, and what it says of the rest."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.errors import ChainError, LocalError
from pyvirtio.spec.struct import Struct, le16, le32, le64
from pyvirtio.system import allocation

STATS_VQ, DEFLATE_ON_OOM, FREE_PAGE_HINT, PAGE_REPORTING = (1 << bit for bit in (1, 2, 3, 5))
PAGE = 4096  # bytes; the unit of the protocol, whatever the pages of guest and host are
MOST_PAGES = 1 << 16  # of one request, so that none takes long; Linux names 256
MOST_STATISTICS = 64  # of one buffer


class Config(Struct):
    num_pages: int = le32()  # that the device would like to have
    actual: int = le32(writable=True)  # that it has
    free_page_hint_cmd_id: int = le32()  # 0: no hints are wanted
    poison_val: int = le32(writable=True)


class Tag(IntEnum):
    SWAP_IN = 0
    SWAP_OUT = 1
    MAJFLT = 2
    MINFLT = 3
    MEMFREE = 4
    MEMTOT = 5
    AVAIL = 6
    CACHES = 7
    HTLB_PGALLOC = 8
    HTLB_PGFAIL = 9


class Stat(Struct):
    tag: Tag = le16(kind=Tag)
    val: int = le64()


@dataclass(frozen=True)
class Statistics:
    """What a guest says of its memory, in bytes and in events since it booted; None where it does not say."""

    swap_in: int | None = None
    swap_out: int | None = None
    majflt: int | None = None
    minflt: int | None = None
    memfree: int | None = None
    memtot: int | None = None
    avail: int | None = None
    caches: int | None = None
    htlb_pgalloc: int | None = None
    htlb_pgfail: int | None = None


class Balloon(Device):
    """Asks a guest for ``target`` bytes of its memory, gives them back to the host, and reads its statistics.

    ``target`` can be set at any time; a guest may take long, or lend less. With ``deflate_on_oom`` it may take memory
    back before its programs die for want of it. Memory that a guest reports as free goes back to the host, too.

    Attributes:
        given_back: the bytes that went back to the host, each time that they did. They are the guest's again as soon
            as it uses them, so this only grows.
    """

    device_id = 5
    inflate = Queue(size=128)
    deflate = Queue(size=128)
    stats = Queue(size=128, held=True)
    hints = Queue(size=128)
    reports = Queue(size=128)

    def __init__(self, target: int = 0, *, deflate_on_oom: bool = False) -> None:
        # Nobody wants hints, but where they are not offered, drivers disagree on which queue the next one is.
        self.features = STATS_VQ | FREE_PAGE_HINT | PAGE_REPORTING | (DEFLATE_ON_OOM if deflate_on_oom else 0)
        self.config = Config(_pages(target))
        self.given_back = 0
        self._target = target
        self._changed = asyncio.Event()
        self._is_asked = asyncio.Event()
        self._waiting: list[asyncio.Future[Statistics]] = []

    # How much there is in it.

    @property
    def target(self) -> int:
        """The bytes that the device would like to have, in whole pages of 4096 bytes."""
        return self._target

    @target.setter
    def target(self, size: int) -> None:
        self.update_config(num_pages=_pages(size))
        self._target = size

    @property
    def actual(self) -> int:
        """The bytes that it has, as the guest says."""
        return PAGE * int(self.config.actual)

    async def reach(self, target: int) -> None:
        """Set the target, and return when the guest says that it is reached."""
        self.target = target
        while self.actual != target:
            self._changed.clear()
            await self._changed.wait()

    def config_written(self) -> None:
        """Hear what the balloon has."""
        self._changed.set()

    def queue_started(self, index: int, *, resumed: bool) -> None:
        """Ask a new driver for what was asked of the one before; it has lent nothing yet."""
        if index == 0 and not resumed:
            self.update_config(num_pages=_pages(self._target), actual=0)

    # Pages.

    @inflate.stream
    def lend(self, reader: Reader, writer: Writer) -> None:
        """Give the pages back to the host."""
        for page in self._named(reader):
            self.given_back += allocation.give_back(page)

    @deflate.stream
    def take_back(self, reader: Reader, writer: Writer) -> None:
        """Do nothing: the host has new memory for a page when the guest first uses it."""
        self._named(reader)

    @reports.stream
    def report(self, reader: Reader, writer: Writer) -> None:
        """Give free pages back to the host: here they are the buffers themselves (5.5.6.7)."""
        for pages in writer.views():
            self.given_back += allocation.give_back(pages)

    @hints.stream
    def hint(self, reader: Reader, writer: Writer) -> None:
        """Ignore what is free, for no command asked for it (5.5.6.5)."""

    def _named(self, reader: Reader) -> list[memoryview]:
        """Return the pages whose numbers a request has; neighbours come as one."""
        if reader.left % 4 or reader.left > 4 * MOST_PAGES:
            raise ChainError(f"{reader.left} bytes are not the numbers of 1 to {MOST_PAGES} pages", section="5.5.6")
        runs: list[list[int]] = []
        for number in sorted(memoryview(reader.read()).cast("I")):
            if runs and number <= runs[-1][1]:
                runs[-1][1] = max(runs[-1][1], number + 1)
            else:
                runs.append([number, number + 1])
        return [view for first, end in runs for view in self.guest_memory.views(first * PAGE, (end - first) * PAGE)]

    # Statistics.

    async def statistics(self) -> Statistics:
        """Ask the guest, and return what it says once it answers.

        Raises:
            LocalError: its driver has no statistics.
        """
        if self.negotiated and not self.negotiated & STATS_VQ:
            raise LocalError("the driver of the guest did not accept VIRTIO_BALLOON_F_STATS_VQ; it has no statistics")
        news: asyncio.Future[Statistics] = asyncio.get_running_loop().create_future()
        self._waiting.append(news)
        self._is_asked.set()
        return await news

    @stats.stream
    async def hear(self, reader: Reader, writer: Writer) -> None:
        """Take what the guest says; keep its buffer until there is a question, for to return it is to ask (5.5.6.3)."""
        number, rest = divmod(reader.left, Stat.nbytes)
        if rest or number > MOST_STATISTICS:
            raise ChainError(f"{reader.left} bytes are not up to {MOST_STATISTICS} statistics", section="5.5.6.3.1")
        found = [reader.take(Stat) for _ in range(number)]
        known = {Tag(stat.tag).name.lower(): stat.val for stat in found if isinstance(stat.tag, Tag)}
        for news in self._waiting:
            if not news.done():
                news.set_result(Statistics(**known))
        self._waiting.clear()
        with suppress(asyncio.CancelledError):  # the queue stops; the guest says more when it starts
            await self._is_asked.wait()
        self._is_asked.clear()


def _pages(size: int) -> int:
    """Return how many pages ``size`` bytes are."""
    if size % PAGE or not 0 <= size // PAGE < 1 << 32:
        raise LocalError(f"a balloon of {size} bytes; give a multiple of {PAGE} from 0 on")
    return size // PAGE
