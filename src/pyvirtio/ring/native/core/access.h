/* Offsets in rings and journal; loads and stores of one width each, and what orders them. */
#ifndef PYVIRTIO_RING_ACCESS_H
#define PYVIRTIO_RING_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A split ring (VIRTIO 1.4, 2.7): flags, and byte offsets. */
enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4, NO_INTERRUPT = 1, NO_NOTIFY = 1 };
enum { DESCRIPTOR = 16, USED_ELEMENT = 8, FLAGS = 0, INDEX = 2, ENTRIES = 4 };

#define MOST_BYTES ((uint64_t)1 << 32) /* that a chain may have */

/* Byte offsets in the two parts of the journal; see journal.py. */
enum { REGION_LAST_HEAD = 12, REGION_USED = 14, REGION_STATES = 16, STATE = 16, STATE_LINK = 6, STATE_SEQUENCE = 8 };
enum { LEDGER_INTENT = 16, LEDGER_BEGUN = 64, BEGUN = 8 };

/*
 * Tests let a process die before any of its stores. With RING_STORE_HOOK, stores to memory that others see are counted,
 * and after `stores_allowed` of them nothing reaches that memory any more: what is left in it is what a death leaves.
 */
#ifdef RING_STORE_HOOK
static uint64_t stores_made, stores_allowed = UINT64_MAX;
static bool is_dead;

static inline bool
may_store(void)
{
    is_dead = is_dead || stores_made >= stores_allowed;
    stores_made += !is_dead;
    return !is_dead;
}
#else
static inline bool
may_store(void)
{
    return true;
}
#endif

/* The ring is shared with a driver that writes it at any moment: one load or store of the right width each. */

static inline uint16_t
load16(const uint8_t *at)
{
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_RELAXED);
}

static inline uint16_t
acquire16(const uint8_t *at)
{
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

static inline uint64_t
load64(const uint8_t *at)
{
    return __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
}

static inline void
store16(uint8_t *at, uint16_t value)
{
    if (may_store())
        __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELAXED);
}

static inline void
release16(uint8_t *at, uint16_t value)
{
    if (may_store())
        __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE);
}

static inline void
store32(uint8_t *at, uint32_t value)
{
    if (may_store())
        __atomic_store_n((uint32_t *)(void *)at, value, __ATOMIC_RELAXED);
}

static inline void
store64(uint8_t *at, uint64_t value)
{
    if (may_store())
        __atomic_store_n((uint64_t *)(void *)at, value, __ATOMIC_RELAXED);
}

static inline uint8_t
load8(const uint8_t *at)
{
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static inline void
store8(uint8_t *at, uint8_t value)
{
    if (may_store())
        __atomic_store_n(at, value, __ATOMIC_RELAXED);
}

/* The in-flight region may lie at any address, for a front-end may bring it: no alignment is assumed. */

static inline uint16_t
get16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t
get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline void
put16(uint8_t *at, uint16_t value)
{
    if (may_store())
        memcpy(at, &value, sizeof value);
}

static inline void
put64(uint8_t *at, uint64_t value)
{
    if (may_store())
        memcpy(at, &value, sizeof value);
}

/*
 * Keeps the compiler from exchanging what comes before and what comes after. That is all the order that the next
 * process needs, which goes on from the journal when this one was killed: a dead process has no stores under way.
 */
static inline void
in_order(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void
full_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/*
 * Copies between guest memory and private memory, without a call where it is short, as most requests and answers are.
 * The two halves of a short copy overlap, so a few bytes of guest memory are read twice. That breaks no rule: only the
 * copy is looked at, and each of its bytes is one that stood in memory at some moment.
 */
static inline void
copy(uint8_t *to, const uint8_t *from, size_t length)
{
    typedef struct {
        uint64_t half[2];
    } word;
    word last;
    if (length == 4) {
        memcpy(to, from, 4);
        return;
    }
    if (length < sizeof last || length > 4 * sizeof last) {
        memcpy(to, from, length);
        return;
    }
    memcpy(&last, from + length - sizeof last, sizeof last);
    for (size_t i = 0; i < length - sizeof last; i += sizeof last) {
        word next;
        memcpy(&next, from + i, sizeof next);
        memcpy(to + i, &next, sizeof next);
    }
    memcpy(to + length - sizeof last, &last, sizeof last);
}

#endif
