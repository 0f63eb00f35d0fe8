"""QEMU's vhost-user front-ends: those made for one type of device, and the generic one for any.

A front-end made for its device knows the feature bits and has a vector for each queue; the generic one has
one interrupt and queues of one size. QEMU has the same front-end for PCI and for its virtio bus, on which
virtio-mmio transports sit, under different names.

>>> FRONTENDS[4].pci, FRONTENDS[4].config.value
('vhost-user-rng-pci', 'none')
>>> FRONTENDS.get(38, GENERIC).pci
'vhost-user-test-device-pci'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ConfigSource(Enum):
    """Who answers when the guest reads the configuration space."""

    BACKEND = "back-end"
    QEMU = "QEMU"
    NONE = "none"


@dataclass(frozen=True)
class Attachment:
    """What a front-end's arguments are filled from; see `pyvirtio.vm.machine.VhostUserDevice`."""

    name: str
    device_id: int
    queues: int
    size: int
    config_size: int
    config: bytes = b""


def _hardware_address(attachment: Attachment) -> str:
    address = attachment.config[:6]
    return address.hex(":") if any(address) else ""


def _tag(attachment: Attachment) -> str:
    tag = attachment.config[:36].rstrip(b"\0").decode(errors="replace")
    return tag.replace(",", ",,") or attachment.name


@dataclass(frozen=True)
class Frontend:
    """One of QEMU's front-ends.

    Attributes:
        device: the device type, in a word.
        pci: QEMU's name for it on PCI.
        bus: QEMU's name for it on the virtio bus.
        since: the first version of QEMU that has it.
        config: where the configuration space comes from.
        config_size: how many bytes it reads of a configuration space that comes from the back-end; a device that has
            fewer is none for it.
        queues: the queues that a device always has, in order.
        repeated: the group of queues that comes any number of times after (for net: instead of) those.
        size: the entries of each queue where QEMU fixes them; 0: `options` says them.
        options: more options of ``-device``; ``{count}`` is how often the repeated group comes.
        wrapper: the argument and its value that takes the character device where ``-device`` does not.
        link: the option of ``-device`` that names the character device or the wrapper.
        fields: for a configuration space that comes from QEMU: options that say what is in it, and what their values
            are; an empty one is left out.
    """

    device: str
    pci: str
    bus: str
    since: str
    config: ConfigSource
    config_size: int = field(default=0, kw_only=True)
    queues: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    size: int = 0
    options: str = ""
    wrapper: tuple[str, str] = ("", "")
    link: str = "chardev"
    fields: tuple[tuple[str, Callable[[Attachment], str]], ...] = ()

    def model(self, transport: str) -> str:
        """Return QEMU's name for it behind a transport: ``pci``, ``mmio`` or ``mmio-legacy``."""
        return self.pci if transport == "pci" else self.bus

    def arguments(self, model: str, attachment: Attachment) -> Iterator[str]:
        """Return QEMU's arguments for one device, without those of its character device ``NAME-socket``."""
        group = len(self.repeated) or 1
        values = {
            "name": attachment.name,
            "id": attachment.device_id,
            "count": max(1, (attachment.queues - len(self.queues)) // group),
            "size": attachment.size,
            "config_size": attachment.config_size,
        }
        chardev = f"{attachment.name}-socket"
        argument, value = self.wrapper
        if argument:
            yield from (argument, value.format(**values) + f",id={attachment.name}-backend,chardev={chardev}")
        linked = f"{attachment.name}-backend" if argument else chardev
        words = [f"{model},id={attachment.name},{self.link}={linked}"]
        if self.options:
            words.append(self.options.format(**values))
        given = [(option, value_of(attachment)) for option, value_of in self.fields]
        words += [f"{option}={value}" for option, value in given if value]
        yield from ("-device", ",".join(words))


GENERIC = Frontend(
    "any",
    "vhost-user-test-device-pci",
    "vhost-user-test-device",
    "10.2",
    ConfigSource.BACKEND,
    repeated=("queue",),
    options="virtio-id={id},num_vqs={count},vq_size={size},config_size={config_size}",
)

FRONTENDS = {
    1: Frontend(
        "net",
        "virtio-net-pci",
        "virtio-net-device",
        "2.1",
        ConfigSource.QEMU,
        repeated=("rx", "tx"),
        options="mq=on,rx_queue_size={size},tx_queue_size={size}",
        wrapper=("-netdev", "vhost-user,queues={count}"),
        link="netdev",
        fields=(("mac", _hardware_address),),
    ),
    2: Frontend(
        "block",
        "vhost-user-blk-pci",
        "vhost-user-blk",
        "2.12",
        ConfigSource.BACKEND,
        repeated=("request",),
        options="num-queues={count},queue-size={size}",
        config_size=60,
    ),
    4: Frontend("rng", "vhost-user-rng-pci", "vhost-user-rng", "7.1", ConfigSource.NONE, ("request",), size=4),
    8: Frontend(
        "scsi",
        "vhost-user-scsi-pci",
        "vhost-user-scsi",
        "2.10",
        ConfigSource.QEMU,
        ("control", "event"),
        ("request",),
        options="num_queues={count},virtqueue_size={size}",
    ),
    16: Frontend("gpu", "vhost-user-gpu-pci", "vhost-user-gpu", "4.1", ConfigSource.QEMU, ("control", "cursor")),
    17: Frontend("rtc", "vhost-user-rtc-pci", "vhost-user-rtc", "11.1", ConfigSource.NONE, ("request", "alarm")),
    18: Frontend(
        "input",
        "vhost-user-input-pci",
        "vhost-user-input",
        "4.1",
        ConfigSource.BACKEND,
        ("event", "status"),
        config_size=136,
    ),
    19: Frontend(
        "vsock",
        "vhost-user-vsock-pci",
        "vhost-user-vsock-device",
        "5.1",
        ConfigSource.BACKEND,
        ("rx", "tx", "event"),
        config_size=8,
    ),
    20: Frontend(
        "crypto",
        "virtio-crypto-pci",
        "virtio-crypto-device",
        "2.12",
        ConfigSource.QEMU,
        ("control",),
        ("data",),
        wrapper=("-object", "cryptodev-vhost-user,queues={count}"),
        link="cryptodev",
    ),
    25: Frontend(
        "sound",
        "vhost-user-snd-pci",
        "vhost-user-snd",
        "9.0",
        ConfigSource.BACKEND,
        ("control", "event", "tx", "rx"),
        size=64,
        config_size=16,
        options="controls=on",
    ),
    26: Frontend(
        "fs",
        "vhost-user-fs-pci",
        "vhost-user-fs-device",
        "4.2",
        ConfigSource.QEMU,
        ("hiprio",),
        ("request",),
        options="num-request-queues={count},queue-size={size}",
        fields=(("tag", _tag),),
    ),
    32: Frontend("scmi", "vhost-user-scmi-pci", "vhost-user-scmi", "8.1", ConfigSource.NONE, ("command", "event")),
    34: Frontend("i2c", "vhost-user-i2c-pci", "vhost-user-i2c-device", "6.2", ConfigSource.NONE, ("request",), size=4),
    41: Frontend(
        "gpio",
        "vhost-user-gpio-pci",
        "vhost-user-gpio-device",
        "7.2",
        ConfigSource.BACKEND,
        ("request", "event"),
        config_size=8,
    ),
    45: Frontend("spi", "vhost-user-spi-pci", "vhost-user-spi-device", "11.1", ConfigSource.BACKEND, ("request",)),
}
"""The front-ends made for one type of device, by its virtio id."""
