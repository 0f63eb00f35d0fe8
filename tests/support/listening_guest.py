"""Stands in for QEMU with a guest in it: started with QEMU's arguments, it runs the commands that it is sent."""

from __future__ import annotations

import re
import socket
import subprocess
import sys


def main(arguments: str) -> None:
    """Speak as the guest's init does (`pyvirtio/guest/init`)."""
    line = socket.socket(fileno=int(re.findall(r"id=commands,fd=(\d+)", arguments)[0]))
    end = re.findall(r"pyvirtio=\w+:(\w+)", arguments)[0]
    print("booted", flush=True)
    line.sendall(f"\0{end} listening\n".encode())
    with line, line.makefile() as commands:
        for command in commands:
            if command.startswith("poweroff"):
                return
            done = subprocess.run(
                ["sh", "-c", command.replace("\1", "\n")], stdin=subprocess.DEVNULL, stdout=line.fileno(), check=False
            )
            print(f"pyvirtio-guest: exit {done.returncode}", flush=True)
            line.sendall(f"\0{end} {done.returncode}\n".encode())


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
