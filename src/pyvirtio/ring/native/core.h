/* The ring's device side without Python: what a process needs that has a ring, its journal and guest memory mapped. */
#ifndef PYVIRTIO_RING_CORE_H
#define PYVIRTIO_RING_CORE_H

#include "core/access.h"
#include "core/follow.c.inc"
#include "core/guest_memory.c.inc"
#include "core/journal.c.inc"
#include "core/prefetch.c.inc"
#include "core/records.c.inc"
#include "core/ring.c.inc"
#include "core/stretch.c.inc"
#include "core/uring.c.inc"

#endif
