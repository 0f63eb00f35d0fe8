"""Serves a device: on a socket of its own, or over a connection to this process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import sys

from pyvirtio.errors import LocalError, VirtioError
from pyvirtio.host import log
from pyvirtio.host.keeper import Keeper
from pyvirtio.host.supervisor import Supervisor
from pyvirtio.system.fd_passing import check_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvirtio.transport import DeviceDescription


def serve(
    device: str,
    path: str,
    *,
    workers: int = 1,
    reload: bool = False,
    device_id: int | None = None,
    poll_us: int = 0,
    ready: Callable[[DeviceDescription], object] = lambda _description: None,
) -> None:
    """Serve ``device`` on the socket ``path`` until SIGTERM or SIGINT; then remove the socket.

    ``ready`` is called when front-ends can connect.

    Raises:
        LocalError: the device cannot be loaded, or the socket not be made.
    """
    # Until the keeper heeds it itself: end as after an error, with everything cleared away.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    with _listen(path) as listener:
        supervisor = Supervisor(device, workers=workers, device_id=device_id, poll_us=poll_us)
        keeper = Keeper(supervisor, listener=listener, reload=reload)
        keeper.run(lambda: ready(supervisor.description))


@contextlib.contextmanager
def backend(device: str) -> Iterator[socket.socket]:
    """Run a back-end process for ``device`` and give a socket connected to it; it ends with the block."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        ours.close()
        Keeper(Supervisor(device), connection=theirs).run()

    with _process(run), ours:
        theirs.close()
        yield ours


@contextlib.contextmanager
def backend_at(device: str, path: str) -> Iterator[None]:
    """Run a back-end process that serves ``device`` on the socket ``path``; it ends with the block.

    Raises:
        LocalError: it did not start; it has said why on stderr.
    """
    reading, writing = os.pipe()

    def run() -> None:
        os.close(reading)
        serve(device, path, ready=lambda _description: os.write(writing, b"ready"))

    with _process(run) as pid:
        os.close(writing)
        with open(reading, "rb") as pipe:
            if not pipe.read(1):
                raise LocalError(f"no back-end serves {device}; see above")
        try:
            yield
        finally:
            os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def _process(run: Callable[[], None]) -> Iterator[int]:
    """Fork a process that calls ``run``; wait for its end behind the block."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # our parent ends, and by that we do
            run()
            status = 0
        except VirtioError as error:
            log.warning(str(error))
        except Exception as error:  # noqa: BLE001  # what else it is must be seen before the process ends
            log.warning("the back-end failed", error)
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        os.waitpid(pid, 0)


@contextlib.contextmanager
def _listen(path: str) -> Iterator[socket.socket]:
    """Make a listening socket that only this user can connect to, and remove it in the end."""
    check_path(path)
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError as error:
            raise LocalError(f"the socket {path} cannot be made: {error.strerror}") from None
        finally:
            os.umask(mask)
        own = os.stat(path).st_ino
        try:
            listener.listen()
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == own:
                    os.unlink(path)


def _make_way(path: str) -> None:
    """Remove a socket that a dead process left; refuse anything else that is in the way."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise LocalError(f"the socket {path} cannot be made: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise LocalError(f"{path} is there already and is no socket; choose another path or remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise LocalError(f"somebody serves {path} already; choose another path or end that process")
