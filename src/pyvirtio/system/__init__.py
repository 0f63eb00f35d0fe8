"""What Linux offers and Python does not wrap: eventfds, memory files, descriptors over Unix sockets, listeners."""
