/* Following a chain through the descriptor table, and asking for what the next ones need. */

/* What is known of the chain that is being followed. */
typedef struct walk {
    uint64_t readable_bytes, writable_bytes;
    size_t first;                 /* its first piece in the scratch */
    size_t readable;              /* readable pieces */
    uint32_t buffers;
    bool writing;
} walk;

/* Makes a store large enough, whatever it holds. */
static bool
reserve(store *store, size_t room)
{
    if (store->room >= room)
        return true;
    PyMem_Free(store->at);
    store->at = PyMem_Malloc(room);
    store->room = store->at ? room : 0;
    return store->at;
}

static bool
more_pieces(Ring *self)
{
    store *store = &self->stores[PIECES];
    size_t room = store->room ? 2 * store->room : 64 * sizeof(piece);
    void *pieces = PyMem_Realloc(store->at, room);
    if (!pieces)
        return false; /* odd; the reference engine raises MemoryError if it must */
    store->at = self->pieces = pieces;
    store->room = room;
    self->piece_room = room / sizeof(piece);
    return true;
}

/* Adds a buffer, in as many pieces as it has regions. All that follow give whether it is plainly right. */
static inline bool
add_buffer(Ring *self, walk *walk, uint64_t address, uint32_t length, unsigned flags)
{
    walk->buffers++;
    if (flags & F_WRITE) {
        if (!walk->writing) {
            walk->writing = true;
            walk->readable = self->piece_count - walk->first;
        }
        walk->writable_bytes += length;
    } else {
        if (walk->writing)
            return false;
        walk->readable_bytes += length;
    }
    if (!length)
        return true; /* nothing, wherever it is */
    if (address + (length - 1) < address)
        return false;
    const Memory *memory = self->memory;
    Py_ssize_t found = find_region(memory, address);
    if (found < 0)
        return false;
    for (;;) {
        const region *region = &memory->regions[found];
        uint64_t left = region->last - address + 1; /* not 0: a region of 2**64 bytes cannot be mapped */
        uint32_t here = left < length ? (uint32_t)left : length;
        if (self->piece_count == self->piece_room && !more_pieces(self))
            return false;
        self->pieces[self->piece_count++] = (piece){region->start + (address - region->base), here, (uint32_t)found};
        length -= here;
        if (!length)
            return true;
        address += here; /* the next byte is in the next region, or in none */
        if (++found == memory->count || memory->regions[found].base != address)
            return false;
    }
}

/* Copies `length` bytes of guest memory into private memory, each once. */
static bool
copy_out(const Memory *memory, uint64_t address, uint32_t length, uint8_t *to)
{
    if (address + (length - 1) < address)
        return false;
    Py_ssize_t found = find_region(memory, address);
    while (found >= 0 && found < memory->count && memory->regions[found].base <= address) {
        const region *region = &memory->regions[found];
        uint64_t left = region->last - address + 1;
        uint32_t here = left < length ? (uint32_t)left : length;
        memcpy(to, region->start + (address - region->base), here);
        to += here;
        length -= here;
        address += here;
        if (!length) {
            in_order(); /* from here on the copy, and never again the original */
            return true;
        }
        found++;
    }
    return false;
}

static bool
follow_indirect(Ring *self, walk *walk, uint64_t address, uint32_t length, unsigned flags)
{
    uint32_t number = length / DESCRIPTOR;
    if (!self->may_indirect || flags & F_NEXT || !length || length % DESCRIPTOR || number > self->size)
        return false;
    if (length > self->indirect_room) {
        uint8_t *room = PyMem_Realloc(self->indirect, length);
        if (!room)
            return false;
        self->indirect = room;
        self->indirect_room = length;
    }
    if (!copy_out(self->memory, address, length, self->indirect))
        return false;
    uint32_t index = 0;
    for (uint32_t i = 0; i < number; i++) {
        const uint8_t *at = self->indirect + (size_t)index * DESCRIPTOR;
        uint64_t buffer = get64(at), rest = get64(at + 8);
        unsigned bits = (unsigned)(rest >> 32) & 0xFFFF;
        if (bits & F_INDIRECT || !add_buffer(self, walk, buffer, (uint32_t)rest, bits))
            return false;
        if (!(bits & F_NEXT))
            return true;
        index = (uint32_t)(rest >> 48);
        if (index >= number)
            return false;
    }
    return false;
}

static inline bool
follow_table(Ring *self, uint16_t head, walk *walk)
{
    uint32_t index = head;
    for (uint32_t i = 0; i < self->size; i++) {
        const uint8_t *at = self->table + (size_t)index * DESCRIPTOR;
        uint64_t address = load64(at), rest = load64(at + 8);
        unsigned flags = (unsigned)(rest >> 32) & 0xFFFF;
        if (flags & F_INDIRECT)
            return follow_indirect(self, walk, address, (uint32_t)rest, flags);
        if (!add_buffer(self, walk, address, (uint32_t)rest, flags))
            return false;
        if (!(flags & F_NEXT))
            return true;
        index = (uint32_t)(rest >> 48);
        if (index >= self->size)
            return false;
    }
    return false;
}


/* Where `length` bytes from `address` on lie, if they are some and all in one region. */
static inline bool
place_whole(const Memory *memory, uint64_t address, uint32_t length, piece *to)
{
    Py_ssize_t found = find_region(memory, address);
    if (found < 0 || !length)
        return false;
    const region *region = &memory->regions[found];
    if (region->last - address < length - 1)
        return false;
    *to = (piece){region->start + (address - region->base), length, (uint32_t)found};
    return true;
}

/*
 * Most chains are one readable buffer and one writable, in the table or in an indirect one, each in one region. These
 * can be told by two comparisons; whatever else there is, also what is wrong, is left to `follow_table`.
 */
static inline bool
follow_pair(Ring *self, uint16_t head, walk *walk)
{
    const uint8_t *at = self->table + (size_t)head * DESCRIPTOR;
    uint64_t pair[4] = {load64(at), load64(at + 8)};
    if (self->size < 2)
        return false;
    if (pair[1] >> 32 == F_INDIRECT && (uint32_t)pair[1] == sizeof pair) {
        piece table;
        if (!self->may_indirect || !place_whole(self->memory, pair[0], sizeof pair, &table))
            return false;
        memcpy(pair, table.at, sizeof pair);
        in_order(); /* from here on the copy, and never again the original */
        if (pair[1] >> 32 != (F_NEXT | (uint64_t)1 << 16))
            return false;
    } else {
        uint64_t next = pair[1] >> 48;
        if ((pair[1] >> 32 & 0xFFFF) != F_NEXT || next >= self->size)
            return false;
        at = self->table + next * DESCRIPTOR;
        pair[2] = load64(at);
        pair[3] = load64(at + 8);
    }
    if ((pair[3] >> 32 & 0xFFFF) != F_WRITE || (self->piece_room - self->piece_count < 2 && !more_pieces(self)))
        return false;
    piece *pieces = self->pieces + self->piece_count;
    uint32_t readable = (uint32_t)pair[1], writable = (uint32_t)pair[3];
    if (!place_whole(self->memory, pair[0], readable, pieces)
        || !place_whole(self->memory, pair[2], writable, pieces + 1) || (uint64_t)readable + writable > MOST_BYTES)
        return false;
    walk->first = self->piece_count;
    walk->readable = 1;
    walk->readable_bytes = readable;
    walk->writable_bytes = writable;
    self->piece_count += 2;
    return true;
}

/* Follows the chain of `head`; its pieces stand behind those that are there. Leaves none of its own if it is odd. */
static inline bool
follow(Ring *self, uint16_t head, walk *walk)
{
    if (follow_pair(self, head, walk))
        return true;
    *walk = (struct walk){.first = self->piece_count};
    if (follow_table(self, head, walk) && walk->buffers <= self->size
        && walk->readable_bytes + walk->writable_bytes <= MOST_BYTES) {
        if (!walk->writing)
            walk->readable = self->piece_count - walk->first;
        return true;
    }
    self->piece_count = walk->first;
    return false;
}

/* The head that comes `ahead` heads after the next. */
static inline uint16_t
head_ahead(const Ring *self, uint32_t ahead)
{
    return load16(self->available + 4 + 2 * (size_t)((self->next + ahead) & (self->size - 1)));
}

/* The head that the driver made available next, unless it is out of range. */
static inline bool
next_head(const Ring *self, uint16_t *head)
{
    *head = head_ahead(self, 0);
    return *head < self->size;
}

/* How many heads may be taken: -1 if the available index is too far ahead. */
static inline int32_t
pending(const Ring *self)
{
    uint16_t ahead = (uint16_t)(acquire16(self->available + 2) - self->next);
    return ahead > self->size - self->in_flight ? -1 : ahead;
}

/*
 * What the driver wrote last lies in another processor's cache, and each line of it takes as long to come as it takes
 * to answer a request. So chains are taken in blocks, and what the next block needs is asked for while this one is
 * followed. What is read here is a hint and nothing else: it is read again, and checked, when its turn comes.
 */
enum { BLOCK = 16, AHEAD = 8, LINE = 64, MOST_AHEAD = 1024 };

static void
ask_for_heads(const Ring *self, uint32_t from, uint32_t upto)
{
    for (uint32_t i = from; i < upto; i++) {
        uint16_t head = head_ahead(self, i);
        if (head >= self->size)
            return;
        __builtin_prefetch(self->table + (size_t)head * DESCRIPTOR);
        __builtin_prefetch(self->marks + MARK_STATES + (size_t)STATE * head, 1);
    }
}

static void
ask_for_their_next(const Ring *self, uint32_t from, uint32_t upto)
{
    for (uint32_t i = from; i < upto; i++) {
        uint16_t head = head_ahead(self, i);
        if (head >= self->size)
            return;
        uint64_t rest = load64(self->table + (size_t)head * DESCRIPTOR + 8);
        if (rest >> 32 & F_NEXT && rest >> 48 < self->size)
            __builtin_prefetch(self->table + (size_t)(rest >> 48) * DESCRIPTOR);
    }
}

static inline void
ask_for_buffer(const piece *piece, uint32_t most)
{
    uint32_t length = piece->length < most ? piece->length : most;
    for (uint32_t i = 0; i < length; i += LINE)
        __builtin_prefetch(piece->at + i);
    if (length)
        __builtin_prefetch(piece->at + length - 1);
}
