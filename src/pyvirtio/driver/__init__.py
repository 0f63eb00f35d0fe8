"""Write a driver: subclass `Driver`, declare the device's queues, submit requests."""

from pyvirtio.driver.answer import Answer
from pyvirtio.driver.bound_queue import BoundQueue, wait_for_any
from pyvirtio.driver.driver import Driver
from pyvirtio.driver.incoming import Incoming
from pyvirtio.driver.request_queue import RequestQueue
from pyvirtio.driver.ticket import Ticket

Queue = RequestQueue  # its first name, in drivers that exist; it is also that of a device's declaration

__all__ = ["Answer", "BoundQueue", "Driver", "Incoming", "Queue", "RequestQueue", "Ticket", "wait_for_any"]
