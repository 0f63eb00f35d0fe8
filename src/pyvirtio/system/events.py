"""What a served device reports, by name: the word in brackets at the end of a line of its log.

The sentences may change; the names do not, so that programs and tests can look for them.
"""

EVENTS = {
    "id-unusable": "a QEMU aborts on a device with this virtio id",
    "engine-slow": "the engine in C is not available; the one in Python runs",
    "io-uring-missing": "io_uring cannot be had; threads wait for the device's files",
    "end-opened": "a device made something on the host to which others connect, such as a pseudo-terminal",
    "source-failed": "what a device takes its content from failed; it is asked again",
    "connected": "a front-end is connected",
    "disconnected": "the front-end is gone",
    "connection-closed": "the connection was closed by this side: it made no sense, or the front-end does not read",
    "connection-failed": "a front-end could not connect",
    "message-refused": "a message of the front-end was refused and changed nothing",
    "channel-full": "the front-end does not read what the device tells it by itself",
    "request-failed": "the driver is shown a failed request: it is malformed, took too long, or ended its worker",
    "method-failed": "a method of the device raised an exception; the request fails",
    "request-stuck": "a request cannot be ended, for its memory is still used; the worker ends",
    "buffer-refused": "a buffer of the driver cannot be used and is returned empty",
    "queue-broken": "a queue is not served until it is set up again: the driver broke its ring, or workers crash on it",
    "queue-stuck": "a queue did not stop in time",
    "memory-missing": "a region of the guest's memory cannot be mapped",
    "config-failed": "the device's config_written raised an exception",
    "run-failed": "the device's run raised an exception",
    "close-failed": "the device's close raised an exception",
    "worker-ended": "a worker ended; the next one takes over",
    "worker-hangs": "a worker was busy with one thing for longer than the device's patience, and is killed",
    "worker-failed": "a worker ended by an exception outside the device's methods",
    "worker-missing": "a worker cannot be started; it is tried again",
    "device-refused": "the changed device is not taken, for it is not what the driver knows; the old code goes on",
    "device-unloadable": "the device cannot be loaded",
    "device-reloaded": "the worker runs the changed device",
    "recording-failed": "a recording could not be written any further; what is recorded goes on",
    "watch-ready": "the page that shows the device is served; the line has its address, which is a secret",
    "keeper-short": "the keeper could not do something for want of descriptors or memory; it goes on",
    "backend-failed": "the back-end ended",
}
"""The events by name, and what each means."""
