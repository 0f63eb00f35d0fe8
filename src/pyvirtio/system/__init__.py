"""What Linux offers and Python does not wrap: eventfds, memory files, and descriptors over Unix sockets."""
