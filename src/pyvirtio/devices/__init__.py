"""The devices that ship with pyvirtio, one file each.

``SHIPPED`` maps the name that a user types to the class, as ``module:class``, so that a device is imported only
when it is used.
"""

SHIPPED = {
    "9p": "pyvirtio.devices.ninep:SharedFolder",
    "article": "pyvirtio.devices.article:Article",
    "balloon": "pyvirtio.devices.balloon:Balloon",
    "block": "pyvirtio.devices.block:Block",
    "console": "pyvirtio.devices.console:Console",
    "echo": "pyvirtio.devices.echo:Echo",
    "entropy": "pyvirtio.devices.entropy:Entropy",
    "factorial": "pyvirtio.devices.factorial:Factorial",
    "fs": "pyvirtio.devices.fs:SharedFolder",
    "input": "pyvirtio.devices.input:Input",
    "net": "pyvirtio.devices.net:Net",
    "scsi": "pyvirtio.devices.scsi:Scsi",
    "sound": "pyvirtio.devices.sound:Sound",
    "vsock": "pyvirtio.devices.vsock:Vsock",
}
