#!/usr/bin/python3
"""Speaks to an input device of this guest, which is found by its name.

events.py NAME read COUNT      print so many keys and movements, as "type code value"
events.py NAME led CODE VALUE  switch a light
events.py NAME axis CODE       print the range of an absolute axis
"""

import fcntl
import glob
import struct
import sys

EVENT = struct.Struct("llHHi")
EVIOCGABS = 0x80184540


def find(name):
    for path in glob.glob("/sys/class/input/event*/device/name"):
        with open(path) as file:
            if file.read().strip() == name:
                return "/dev/input/" + path.split("/")[4]
    sys.exit(f"there is no input device {name!r}")


def read(device, count):
    print("events are read", flush=True)
    while count:
        _, _, kind, code, value = EVENT.unpack(device.read(EVENT.size))
        if kind in (4, 17):  # EV_MSC; EV_LED, for Linux's own terminals switch lights as well
            continue
        if kind:
            print(kind, code, value)
            count -= 1


def main(name, command, *numbers):
    with open(find(name), "r+b", buffering=0) as device:
        if command == "read":
            read(device, int(numbers[0]))
        elif command == "led":
            device.write(EVENT.pack(0, 0, 17, int(numbers[0]), int(numbers[1])))
        else:
            info = fcntl.ioctl(device, EVIOCGABS + int(numbers[0]), bytes(24))
            print(*struct.unpack("6i", info)[1:3])


if __name__ == "__main__":
    main(*sys.argv[1:])
