/* Constants of rings and journal; loads and stores of one width each, and what orders them. */

enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4, NO_INTERRUPT = 1, NO_NOTIFY = 1, DESCRIPTOR = 16 };

/* Byte offsets in the two halves of the journal; see journal.py. */
enum { MARK_LAST_HEAD = 12, MARK_USED = 14, MARK_STATES = 16, STATE = 16, STATE_NEXT = 6, STATE_ORDER = 8 };
enum { N_INTENT = 1, N_RUNNING_FROM = 3, N_RUNNING_NUMBER = 4, N_RUNNING_SINCE = 5 };
enum { N_REQUESTS = 6, N_BYTES_READ = 9, N_BYTES_WRITTEN = 10, N_ALL = 16 };

#define MOST_BYTES ((uint64_t)1 << 32)
#define MOST_RECORD ((uint32_t)1 << 20)

/* A record's chain that is scattered over more pieces than this goes the way of chains. */
#define MOST_PIECES 64

static inline uint16_t load16(const uint8_t *at) { return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_RELAXED); }
static inline uint16_t acquire16(const uint8_t *at) { return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE); }
static inline void store16(uint8_t *at, uint16_t value) { __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELAXED); }
static inline void release16(uint8_t *at, uint16_t value) { __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE); }
static inline void store32(uint8_t *at, uint32_t value) { __atomic_store_n((uint32_t *)(void *)at, value, __ATOMIC_RELAXED); }
static inline uint64_t load64(const uint8_t *at) { return __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED); }
static inline uint8_t load8(const uint8_t *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
static inline void store8(uint8_t *at, uint8_t value) { __atomic_store_n(at, value, __ATOMIC_RELAXED); }
static inline void in_order(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
static inline void full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* The journal is ours but may lie at any address (a front-end may bring a part of it): no alignment is assumed. */
static inline uint16_t get16(const uint8_t *at) { uint16_t value; memcpy(&value, at, sizeof value); return value; }
static inline uint64_t get64(const uint8_t *at) { uint64_t value; memcpy(&value, at, sizeof value); return value; }
static inline void put16(uint8_t *at, uint16_t value) { memcpy(at, &value, sizeof value); }
static inline void put64(uint8_t *at, uint64_t value) { memcpy(at, &value, sizeof value); }

/* Copies a few bytes without a call: most requests and answers are short. What is guest memory is read into private. */
static inline void
copy(uint8_t *to, const uint8_t *from, size_t length)
{
    typedef struct { uint64_t half[2]; } word;
    word last;
    if (length < sizeof last || length > 4 * sizeof last) {
        if (length == 4)
            memcpy(to, from, 4);
        else
            memcpy(to, from, length);
        return;
    }
    memcpy(&last, from + length - sizeof last, sizeof last);
    for (size_t i = 0; i < length - sizeof last; i += sizeof last) {
        word word;
        memcpy(&word, from + i, sizeof word);
        memcpy(to + i, &word, sizeof word);
    }
    memcpy(to + length - sizeof last, &last, sizeof last);
}
