"""What this machine can do, what is missing, and the command that fixes it.

Each check returns a `CheckResult`; nothing is printed here. `examine` only looks. `fix` provisions what
`examine` found missing into the cache.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass

from pyvirtio.errors import ProvisionError, VirtioError
from pyvirtio.vm.accel import known_kvm_obstacle, kvm_obstacle
from pyvirtio.vm.drivers import DEFAULT_FLAVOUR, DEFAULT_VERSION
from pyvirtio.vm.launch import OWN_DRIVER, GuestBuilder, GuestOptions
from pyvirtio.vm.machine import MACHINES, find_machine
from pyvirtio.vm.qemu import find_qemu, provisioned

OK, MISSING, OPTIONAL = "ok", "missing", "optional"
FIX = "pyvirtio doctor --fix"
ARCHITECTURES = tuple(dict.fromkeys(machine.arch for machine in MACHINES))
NEEDED_SPACE = 2 * 2**30  # bytes; what `fix` writes for both architectures
APT_TOOLS = ("apt-get", "apt-cache", "dpkg-deb")
SYSTEM_PACKAGES = ("apt", "dpkg", "debian-archive-keyring", "ca-certificates")


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    Attributes:
        name: what was looked at.
        state: ``ok``, ``missing``, or ``optional``: missing, but a guest runs without it.
        found: what there is, or what is wrong, in a line.
        remedy: the command or option that fixes it; empty if nothing has to be fixed.
    """

    name: str
    state: str
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the result for ``--json``."""
        return asdict(self)


def examine(builder: GuestBuilder) -> list[CheckResult]:
    """Look at everything that a guest needs. Nothing is downloaded."""
    return [
        _registry(builder),
        _space(builder),
        *(_emulator(builder, arch) for arch in ARCHITECTURES),
        *(_kernel(builder, arch) for arch in ARCHITECTURES),
        _kvm(builder),
        _progress_bars(),
    ]


def fix(builder: GuestBuilder) -> list[CheckResult]:
    """Provision what is missing into the cache, then look again.

    As root it also installs the few system packages that provisioning itself needs, where they are
    missing, and says so first.

    Raises:
        ProvisionError: something is not available.
    """
    _install_tools(builder)
    for arch in ARCHITECTURES:
        builder.prepare(GuestOptions(arch=arch, accel="tcg", drivers=[OWN_DRIVER]))
    return examine(builder)


def _install_tools(builder: GuestBuilder) -> None:
    if shutil.which("apt-get") is None or all(shutil.which(tool) for tool in APT_TOOLS):
        return
    if os.geteuid() != 0:
        raise ProvisionError(f"run as root: apt-get install {' '.join(SYSTEM_PACKAGES)}; then, as yourself, {FIX}")
    command = ["apt-get", "install", "-y", "--no-install-recommends", *SYSTEM_PACKAGES]
    builder.progress.notice(f"installing system packages: {' '.join(command)}")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProvisionError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}; mend that, and try again")


def _registry(builder: GuestBuilder) -> CheckResult:
    try:
        builder.provision.registry.check()
    except ProvisionError as error:
        return CheckResult("package registry", MISSING, str(error), "--qemu PATH --kernel PATH")
    return CheckResult("package registry", OK, "apt, with the sources of this machine")


def _space(builder: GuestBuilder) -> CheckResult:
    root = builder.cache.root
    there = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{root}, {free // 2**20} MiB free"
    if not os.access(there, os.W_OK):
        return CheckResult("cache folder", MISSING, f"{root} cannot be written", "set XDG_CACHE_HOME")
    if free < NEEDED_SPACE and not builder.provision.has_qemu():
        return CheckResult("cache folder", MISSING, found, f"free {NEEDED_SPACE // 2**20} MiB, or set XDG_CACHE_HOME")
    return CheckResult("cache folder", OK, found)


def _emulator(builder: GuestBuilder, arch: str) -> CheckResult:
    machine, provision = find_machine(arch), builder.provision
    name = f"QEMU for {arch}"
    try:
        qemu = find_qemu(machine)
    except ProvisionError as error:
        if not provision.has_qemu():
            return CheckResult(name, MISSING, str(error).split(". Run", maxsplit=1)[0], FIX)
        qemu = provisioned(provision.qemu(), machine.emulator)
    return CheckResult(name, OK, f"version {qemu.version()}, {qemu.prefix[0]}")


def _kernel(builder: GuestBuilder, arch: str) -> CheckResult:
    name = f"kernel for {arch}"
    if not builder.provision.has_kernel(arch, DEFAULT_VERSION, DEFAULT_FLAVOUR):
        return CheckResult(name, MISSING, "not provisioned yet", FIX)
    try:
        kernel = builder.kernel(GuestOptions(arch=arch))
    except VirtioError as error:
        return CheckResult(name, MISSING, str(error), FIX)
    return CheckResult(name, OK, kernel.release)


def _kvm(builder: GuestBuilder) -> CheckResult:
    remedy = "--accel tcg emulates instead; it is the default where KVM fails"
    native = platform.machine()
    if native not in ARCHITECTURES:
        return CheckResult("KVM", OPTIONAL, f"no machine for {native}", remedy)
    machine, provision = find_machine(native), builder.provision
    obstacle = kvm_obstacle(machine)
    if not obstacle and not (provision.has_qemu() and provision.has_kernel(native, DEFAULT_VERSION, DEFAULT_FLAVOUR)):
        return CheckResult("KVM", OPTIONAL, "not tried yet: QEMU or the kernel is missing", FIX)
    if not obstacle:
        qemu = find_qemu(machine, provision=provision.qemu)
        obstacle = known_kvm_obstacle(machine, qemu, builder.kernel(GuestOptions(arch=native)).image, builder.cache)
    if obstacle:
        return CheckResult("KVM", OPTIONAL, obstacle, remedy)
    return CheckResult("KVM", OK, "a guest boots with it")


def _progress_bars() -> CheckResult:
    if importlib.util.find_spec("rich"):
        return CheckResult("progress bars", OK, "drawn by rich")
    return CheckResult("progress bars", OPTIONAL, "lines instead of bars", "pip install rich")
