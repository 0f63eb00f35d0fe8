"""Write a driver: subclass `Driver`, declare the device's queues, submit requests."""

from pyvirtio.driver.driver import Driver
from pyvirtio.driver.queue import BoundQueue, Queue, Ticket

__all__ = ["BoundQueue", "Driver", "Queue", "Ticket"]
