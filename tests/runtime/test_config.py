"""A device's configuration space: who may change it, who is told, and what a reset makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyvirtio import open_driver, serving
from pyvirtio.device import Device, OutgoingQueue, Queue
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import LocalError
from pyvirtio.runtime import ConfigSpace
from pyvirtio.spec.struct import Struct, be16, le16, le32
from pyvirtio.testing.served import served
from tests.support.runner import Scene


class Config(Struct):
    knob: int = le16(writable=True)
    state: int = le32()
    port: int = be16(80)


class Other(Struct):
    state: int = le32()


class Number(Struct):
    value: int = le32()


class Knobs(Device):
    """Answers with its configuration space's state; notes what the driver writes."""

    device_id = 63
    config = Config(state=1)
    requests = Queue(Number, Number, size=16)

    def __init__(self, state: int = 0) -> None:
        self.written: list[Config] = []
        self.fails = False
        if state:
            self.config = Config(state=state)

    @requests.each
    def answer(self, request: Number) -> int:
        if request.value:
            self.update_config(state=request.value)
        state: int = self.config.state
        return state

    def config_written(self) -> None:
        self.written.append(self.config)
        if self.fails:
            raise ValueError("as it was told to")


class KnobsDriver(Driver):
    device_id = 63
    config = Config
    requests = RequestQueue(Number, Number)


# The bytes.


def test_a_driver_changes_only_what_it_may():
    space = ConfigSpace(Config(state=1).pack(), Config.writable_mask())
    assert space.write(0, b"\xff" * 8) == [(0, 255), (1, 255)]
    assert Config.unpack(space.content) == Config(0xFFFF, 1)
    assert space.generation == 0


def test_a_migration_restores_all_of_it():
    space = ConfigSpace(Config(state=1).pack(), Config.writable_mask())
    whole = Config(7, 8, 9).pack()
    assert space.write(0, whole, by_driver=False) == list(enumerate(whole))
    assert space.content == whole


@pytest.mark.parametrize(("offset", "length"), [(0, 100), (7, 2), (8, 1), (100, 5), (3, 0)])
def test_nothing_beyond_its_end_is_written_or_read(offset: int, length: int):
    space = ConfigSpace(bytes(8), b"\xff" * 8)
    assert len(space.write(offset, b"x" * length)) == max(0, min(length, 8 - offset))
    assert len(space) == len(space.content) == 8
    assert len(space.read(offset, length)) == max(0, min(length, 8 - offset))


def test_a_change_of_the_device_leaves_what_the_driver_wrote_meanwhile():
    space = ConfigSpace(Config(state=1).pack(), Config.writable_mask())
    space.write(0, b"\x05")
    changes = space.replace(Config(5, 2).pack())
    assert changes == [(2, 2)]
    assert space.generation == 1
    assert Config.unpack(space.content) == Config(5, 2)


# The device.


def test_the_device_sees_what_the_driver_wrote_before_it_is_told():
    with Scene(Knobs()) as scene:
        scene.runner.write_config(0, b"\x07\x00" + b"\xff" * 6)
        assert scene.device.written == [Config(7, 1)]
        scene.runner.write_config(2, b"\xff")  # nothing that a driver may write
        assert len(scene.device.written) == 1


def test_a_config_written_that_raises_is_reported_and_the_write_stands():
    with Scene(Knobs()) as scene:
        scene.device.fails = True
        assert scene.runner.write_config(0, b"\x07").done
        assert scene.counts == {"config-failed": 1}
        assert scene.runner.read_config(0, 2) == b"\x07\x00"


def test_a_migration_is_no_write_of_the_driver_s():
    with Scene(Knobs()) as scene:
        scene.runner.write_config(0, Config(7, 8).pack(), by_driver=False)
        assert scene.device.written == []
        assert scene.device.config == Config(7, 8)


def test_the_driver_is_told_once_of_a_change_and_never_of_none():
    with Scene(Knobs()) as scene:
        scene.device.update_config(state=5)
        assert (scene.changes, scene.runner.config_generation()) == (1, 1)
        assert scene.runner.read_config(0, 8) == Config(state=5).pack()
        scene.device.update_config(state=5)
        scene.device.config = Config(state=5)
        assert scene.changes == 1


def test_a_reset_brings_back_the_first_content():
    with Scene(Knobs(state=9)) as scene:
        scene.device.update_config(state=10)
        scene.runner.reset()
        assert scene.device.config == Config(state=9)
        assert scene.runner.read_config(0, 8) == Config(state=9).pack()
        scene.device.update_config(state=11)
        assert Config.unpack(scene.runner.read_config(0, 8)).state == 11


@pytest.mark.parametrize("wrong", [5, b"12345678", {"state": 1}, Config, Other(1), None], ids=repr)
def test_something_else_is_refused_and_changes_nothing(wrong: Any):
    with Scene(Knobs()) as scene:
        with pytest.raises(LocalError):
            scene.device.config = wrong
        assert scene.device.config == Config(state=1)
        assert scene.changes == 0


@pytest.mark.parametrize("changes", [{"status": 1}, {"state": -1}, {"state": 2**32}, {"knob": "x"}])
def test_a_change_that_is_not_possible_is_refused(changes: dict[str, Any]):
    with Scene(Knobs()) as scene:
        with pytest.raises(LocalError):
            scene.device.update_config(**changes)
        assert scene.device.config == Config(state=1)


def test_a_device_without_a_configuration_space_has_nothing_to_change():
    class Bare(Device):
        requests = Queue(Number, Number)
        answer = requests.each(Knobs.answer)

    assert Bare().config is None
    with pytest.raises(LocalError):
        Bare().update_config(state=1)


@pytest.mark.parametrize("wrong", [5, Config, "text"], ids=repr)
def test_a_class_with_something_else_is_refused(wrong: Any):
    with pytest.raises(LocalError):
        type("Wrong", (Device,), {"config": wrong})


def test_instances_do_not_share_what_they_change():
    one, other = Knobs(), Knobs()
    one.update_config(state=5)
    assert (one.config, other.config, Knobs.config) == (Config(state=5), Config(state=1), Config(state=1))


def test_a_subclass_inherits_it_and_may_have_another():
    class Same(Knobs): ...

    class Different(Knobs):
        config = Other(3)  # type: ignore[assignment]  # an author may

    assert (Same.config, Different.config, Same().config, Different().config) == (
        Config(state=1),
        Other(3),
        Config(state=1),
        Other(3),
    )


# Wherever the device runs.


@pytest.mark.parametrize("way", ["in this process", "served"])
def test_a_constructor_decides_and_a_driver_sees_each_change(way: str, tmp_path):
    path = str(tmp_path / "s")

    def check(place: Device | str, device: Knobs) -> None:
        with open_driver(KnobsDriver, place) as driver:
            assert driver.read_config() == Config(state=9)
            assert driver.requests.call(Number(0)).value == 9
            driver.write_config(knob=3)
            assert driver.requests.call(Number(20)).value == 20
            assert driver.read_config() == Config(3, 20)
            assert device.written == [Config(3, 9)]

    device = Knobs(state=9)
    if way == "served":
        with serving(device, path):
            check(f"vhost-user:{path}", device)
    else:
        check(device, device)


# Queues and features of an instance.


class Network(Device):
    """As many pairs of queues as its constructor says."""

    device_id = 63
    config = Config()
    rx = OutgoingQueue(size=16)
    tx = Queue(Number, Number, size=32)
    control = Queue(Number, Number, size=8)

    def __init__(self, pairs: int, *, offload: bool = False) -> None:
        self.queues = [Network.rx, Network.tx] * pairs + [Network.control]
        self.features = 1 << 5 if offload else 0
        self.config = Config(port=pairs)

    @tx.each
    def transmit(self, request: Number) -> int:
        for port in self.ports(Network.rx):
            port.try_send(Number(request.value).pack())
        return 1

    @control.each
    def command(self, request: Number) -> int:
        self.ports(Network.rx)[request.value].try_send(b"here")
        return 2


def test_an_instance_decides_on_its_queues_features_and_configuration():
    description = Network(3, offload=True).description()
    assert description.queue_sizes == (16, 32, 16, 32, 16, 32, 8)
    assert description.features & 1 << 5
    assert Config.unpack(description.config).port == 3
    assert not Network(1).description().features & 1 << 5
    assert Network(1).description().queue_sizes == (16, 32, 8)


def test_each_outgoing_queue_of_an_instance_has_its_own_port():
    async def main() -> None:
        async with Scene(Network(3)) as scene:
            for index in range(7):
                scene.start(index)
            for index in (0, 2, 4):
                raw = scene.raws[index]
                raw.make_available(*(raw.request(room=4) for _ in range(2)))
            for wanted, index in enumerate((0, 2, 4)):
                scene.submit(Number(wanted).pack(), index=6)
                assert list((await scene.back(1, index=6)).values()) == [Number(2).pack()]
                assert list(scene.reap(index).values()) == [b"here"]
            scene.submit(Number(9).pack(), index=3)
            await scene.back(1, index=3)
            assert [list(scene.reap(index).values()) for index in (0, 2, 4)] == [[Number(9).pack()]] * 3

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_a_queue_whose_size_no_queue_has_is_not_declared(size):
    with pytest.raises(LocalError, match="power of two"):
        Queue(size=size)


@pytest.mark.parametrize(
    "changes",
    [
        {"queues": []},
        {"queues": ["rx"]},
        {"features": 1 << 30},
        {"features": "all"},
        {"device_id": 0},
        {"device_id": 64},
        {"patience": 0},
        {"patience": -1},
        {"patience": float("inf")},
        {"patience": float("nan")},
        {"patience": "10"},
    ],
    ids=repr,
)
def test_an_instance_that_is_not_possible_is_refused_before_it_is_served(changes: dict[str, Any]):
    device = Network(1)
    vars(device).update(changes)
    with pytest.raises(LocalError):
        device.description()


@pytest.mark.parametrize("patience", [0.001, 1, 10.0, 1e9, None])
def test_any_patience_above_zero_is_possible_and_so_is_none(patience: float | None):
    device = Network(1)
    device.patience = patience
    assert device.description()


# What a device changes in answer to a driver's write.


class Selecting(Knobs):
    """Shows ten times the knob in its state."""

    def config_written(self) -> None:
        super().config_written()
        self.update_config(state=10 * self.config.knob)


class SelectingDriver(KnobsDriver):
    pass


def test_a_driver_reads_the_answer_to_what_it_wrote_and_is_not_interrupted():
    with Scene(Selecting()) as scene:
        scene.start()
        scene.runner.write_config(0, (7).to_bytes(2, "little"))
        assert Config.unpack(scene.runner.read_config(0, Config.nbytes)).state == 70
        assert scene.changes == 0
        scene.device.update_config(state=1)
        assert scene.changes == 1


def test_a_driver_reads_the_answer_over_a_socket_too(tmp_path):
    path = str(tmp_path / "s")
    with served(f"{__file__}:Selecting") as server, open_driver(SelectingDriver, f"vhost-user:{server.path}") as driver:
        for knob in (3, 4, 3):
            driver.write_config(knob=knob)
            assert driver.read_config().as_dict()["state"] == 10 * knob
    with serving(Selecting(), path), open_driver(SelectingDriver, f"vhost-user:{path}") as driver:
        driver.write_config(knob=5)
        assert driver.read_config().as_dict()["state"] == 50
