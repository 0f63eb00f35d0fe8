"""Serves a device in processes of its own: on a socket, or over a connection to this process."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from functools import partial

from pyvirtio.errors import LocalError, VirtioError
from pyvirtio.host.keeper import Keeper
from pyvirtio.host.supervisor import Supervisor
from pyvirtio.runtime import DeviceRunner
from pyvirtio.server import Server
from pyvirtio.system import log
from pyvirtio.vhost_user.backend import BackendSession

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from pyvirtio.transport import DeviceDescription, DeviceHost, Session

MAX_QUEUE_SIZE = 1024
"""The largest queue that QEMU takes; with a larger one it aborts."""

MAX_QUEUES = 256
"""The most queues that vhost-user can name: their number has 8 bits where a descriptor comes along."""


def serve(
    spec: str,
    where: str | int,
    *,
    workers: int = 1,
    reload: bool = False,
    device_id: int | None = None,
    busy_poll_us: int = 0,
    new_runner: Callable[..., DeviceRunner] = DeviceRunner,
    new_session: Callable[[DeviceHost], Session] | None = None,
    ready: Callable[[DeviceDescription], object] = lambda _description: None,
) -> None:
    """Serve the device that ``spec`` names until SIGTERM or SIGINT.

    ``where`` is the path of a socket, which is made and in the end removed, or a socket's descriptor: one that listens,
    or one that is connected; then it ends when that closes. ``ready`` is called when front-ends can connect.
    ``new_runner`` makes what runs the device in a worker, ``new_session`` the protocol of a connection.

    Raises:
        LocalError: the device cannot be loaded or served, or the socket not be made.
    """
    # Until the keeper heeds it itself: end as after an error, with everything cleared away.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    with contextlib.ExitStack() as exits:
        listener, connection = _sockets(exits, where)
        runner = partial(new_runner, busy_poll_us=busy_poll_us)
        supervisor = Supervisor(spec, workers=workers, device_id=device_id, new_runner=runner)
        try:
            check_servable(supervisor.description)
            server = Server(supervisor, new_session or backend_session, listener=listener, connection=connection)
        except BaseException:
            supervisor.close()
            raise
        Keeper(supervisor, server, reload=reload).run(lambda: ready(supervisor.description))


def _sockets(exits: contextlib.ExitStack, where: str | int) -> tuple[socket.socket | None, socket.socket | None]:
    from pyvirtio.system.listener import inherited, listen  # a back-end of a connection does without

    if isinstance(where, str):
        return exits.enter_context(listen(where)), None
    sock, listens = inherited(where)
    exits.enter_context(sock)
    return (sock, None) if listens else (None, sock)


def backend_session(host: DeviceHost) -> BackendSession:
    """Return the protocol of a new connection, which logs what it refuses."""
    return BackendSession(host, log.refused)


def check_servable(description: DeviceDescription) -> None:
    """Refuse a device that front-ends of vhost-user cannot have.

    Raises:
        LocalError: it has too many queues, or one that is too large.
    """
    sizes = description.queue_sizes
    if len(sizes) > MAX_QUEUES:
        raise LocalError(
            f"{description.name} has {len(sizes)} queues; over vhost-user it may have {MAX_QUEUES}, so declare fewer"
        )
    if too_large := [size for size in sizes if size > MAX_QUEUE_SIZE]:
        raise LocalError(
            f"{description.name} declares a queue of {max(too_large)} entries, with which QEMU aborts; "
            f"declare at most size={MAX_QUEUE_SIZE}"
        )


@contextlib.contextmanager
def backend(spec: str, new_runner: Callable[..., DeviceRunner] = DeviceRunner) -> Iterator[socket.socket]:
    """Run a back-end process for a device and yield a socket connected to it; it ends with the block."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        ours.close()
        supervisor = Supervisor(spec, new_runner=new_runner)
        Keeper(supervisor, Server(supervisor, backend_session, connection=theirs)).run()

    with forked(run), ours:
        theirs.close()
        yield ours


@contextlib.contextmanager
def backend_at(spec: str, path: str) -> Iterator[DeviceDescription]:
    """Run a back-end process that serves a device on the socket ``path``; it ends with the block.

    What the device is comes from that process: an instance made here could hold a file or a terminal that it needs.

    Raises:
        LocalError: it did not start.
    """
    import pickle

    reading, writing = os.pipe()

    def run() -> None:
        os.close(reading)
        with open(writing, "wb") as pipe:
            try:
                serve(spec, path, ready=lambda description: _tell(pipe, description))
            except VirtioError as error:
                if pipe.closed:
                    raise
                _tell(pipe, error)

    with forked(run) as pid:
        os.close(writing)
        with open(reading, "rb") as pipe:
            told = pipe.read()
        if not told:
            raise LocalError(f"no back-end serves {spec}; see above")
        outcome = pickle.loads(told)  # noqa: S301  # our own process says this
        if isinstance(outcome, VirtioError):
            raise outcome
        try:
            yield outcome
        finally:
            os.kill(pid, signal.SIGTERM)


def _tell(pipe: IO[bytes], outcome: DeviceDescription | VirtioError) -> None:
    import pickle

    pickle.dump(outcome, pipe)
    pipe.close()


@contextlib.contextmanager
def forked(run: Callable[[], None]) -> Iterator[int]:
    """Fork a process that calls ``run``; wait for its end behind the block."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            gc.freeze()  # as in a worker
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # our parent ends, and by that we do
            run()
            status = 0
        except VirtioError as error:
            log.warning("backend-failed", str(error))
        except Exception as error:  # noqa: BLE001  # what else it is must be seen before the process ends
            log.warning("backend-failed", "the back-end failed", error)
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        os.waitpid(pid, 0)
