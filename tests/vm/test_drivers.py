"""The tables of Linux's drivers agree with Debian's kernels, and a kernel is chosen that has what is needed."""

from __future__ import annotations

import pytest

from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio.vm.drivers import NOT_IN_CLOUD, STOCK_MODULES, bound_ids, needed_kernel, undriven
from pyvirtio.vm.kernel_modules import load_order
from pyvirtio.vm.launch import GuestOptions, default_builder
from pyvirtio.vm.uml import DRIVEN


@pytest.mark.parametrize(
    ("ids", "needed"),
    [
        ([], ("6.1", "cloud")),
        ([2, 38], ("6.1", "cloud")),
        ([2, 9], ("6.1", "full")),
        ([23], ("6.12", "cloud")),
        ([25], ("6.12", "full")),
    ],
)
def test_the_smallest_and_oldest_kernel_with_the_drivers(ids: list[int], needed: tuple[str, str]) -> None:
    assert needed_kernel(ids) == needed


def test_devices_without_a_driver_are_named() -> None:
    assert undriven([4, 38, 21], built=[38]) == ["signal distribution module (virtio id 21)"]


@pytest.mark.guest
@pytest.mark.timeout(900)  # the first run downloads kernels
def test_each_module_of_the_table_binds_its_id() -> None:
    builder = default_builder()
    try:
        kernels = [builder.kernel(GuestOptions(), ids) for ids in ([4], [9], [23])]
        uml = builder.provision.uml()
    except (LocalError, ProvisionError) as error:
        pytest.skip(f"nothing can be provisioned here: {error}")
    for device_id, (first, *_) in STOCK_MODULES.items():
        kernel = kernels[1 if device_id in NOT_IN_CLOUD else 0]
        if needed_kernel([device_id])[0] != "6.1":
            kernel = kernels[2]
        if device_id == 25:
            continue  # of a kernel of 300 MB; tests of the sound device boot it
        modules = {module.name: module for module in load_order(kernel, [first])}
        assert device_id in bound_ids(modules[first]), first
    for device_id in DRIVEN:
        first = STOCK_MODULES[device_id][0]
        assert device_id in bound_ids({module.name: module for module in load_order(uml, [first])}[first])
