/* What must survive this process: see journal.py. Giving chains back, with all its steps. */

/* Marks a head in flight, unless it is. From here on it must not be lost. */
static inline bool
begin(Ring *self, uint16_t head)
{
    uint8_t *entry = self->marks + MARK_STATES + (size_t)STATE * head;
    if (load8(entry))
        return false;
    self->order++;
    put64(entry + STATE_ORDER, self->order);
    in_order();
    store8(entry, 1);
    in_order();
    self->next++;
    self->in_flight++;
    return true;
}

static inline uint64_t number(const Ring *self, int place) { return get64(self->numbers + 8 * place); }
static inline void set_number(Ring *self, int place, uint64_t value) { put64(self->numbers + 8 * place, value); }
static inline void count(Ring *self, int place, uint64_t more) { set_number(self, place, number(self, place) + more); }

/* Gives back self->heads[0..n), with self->written[] or the same length each; publishes the used index once. */
static void
add_used(Ring *self, uint32_t n, bool same, uint32_t length)
{
    const uint16_t *heads = self->heads;
    uint16_t used = self->used_index;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *element = self->used + 4 + 8 * (size_t)((used + i) & (self->size - 1));
        store32(element, heads[i]);
        store32(element + 4, same ? length : self->written[i]);
    }
    used = (uint16_t)(used + n);

    /* Journal.intend */
    uint16_t last = get16(self->marks + MARK_LAST_HEAD);
    for (uint32_t i = 0; i < n; i++) {
        put16(self->marks + MARK_STATES + (size_t)STATE * heads[i] + STATE_NEXT, last);
        last = heads[i];
    }
    in_order();
    put16(self->marks + MARK_LAST_HEAD, last);
    in_order();
    set_number(self, N_INTENT, used);
    in_order();
    release16(self->used + 2, used);
    in_order();

    /* Journal.finish */
    for (uint32_t i = 0; i < n; i++)
        store8(self->marks + MARK_STATES + (size_t)STATE * heads[i], 0);
    for (uint32_t i = 0; self->struck && i < n; i++)
        self->strikes[heads[i]] = 0;
    in_order();
    put16(self->marks + MARK_USED, used);
    set_number(self, N_RUNNING_NUMBER, 0);
    self->used_index = used;
    self->in_flight = self->in_flight > n ? self->in_flight - n : 0;
}

/* Whether the driver wants an interrupt for what was given back since the last one was thought of. (2.7.7.2) */
static bool
needs_interrupt(const Ring *self)
{
    uint16_t old = self->called_at, new = self->used_index;
    full_fence(); /* the used index must be out before the driver's wish is read */
    if (self->event_idx) {
        uint16_t event = load16(self->available + 4 + 2 * (size_t)self->size);
        return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
    }
    return new != old && !(load16(self->available) & NO_INTERRUPT);
}
