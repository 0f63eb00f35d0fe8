/*
 * The ring's device side in C: what the reference engine (split_device.py) does, for the cases that it accepts.
 *
 * Nothing here decides what is wrong with a ring. Whatever is not plainly right - a bad index, a forbidden flag, an
 * address outside memory, a head that is in flight - is "odd": it is left where it is, untouched, and the reference
 * engine looks at it afresh and says which rule it breaks. So there is one place for errors, and this file only has
 * to be sure that what it accepts, the reference engine accepts too.
 *
 * The guest is hostile. Every shared byte that is checked is loaded once, into a local or into private memory; the
 * copy is checked and the copy is used. Indexes that the device wrote are never read back. Every buffer is held
 * (Py_buffer) for as long as anything here can point into it: a chain holds the memory table that it was translated
 * with, also when the ring has long been given another.
 *
 * A process that runs this may be killed at any instruction, and the next one goes on from the journal. So the steps
 * of journal.py keep their order: `in_order()` between two steps stops the compiler from exchanging them, which is
 * all it takes, for a dead process has no stores under way.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4, NO_INTERRUPT = 1, NO_NOTIFY = 1, DESCRIPTOR = 16 };

/* Byte offsets in the two halves of the journal; see journal.py. */
enum { MARK_LAST_HEAD = 12, MARK_USED = 14, MARK_STATES = 16, STATE = 16, STATE_NEXT = 6, STATE_ORDER = 8 };
enum { N_INTENT = 1, N_RUNNING_FROM = 3, N_RUNNING_NUMBER = 4, N_RUNNING_SINCE = 5 };
enum { N_REQUESTS = 6, N_BYTES_READ = 9, N_BYTES_WRITTEN = 10, N_ALL = 16 };

#define MOST_BYTES ((uint64_t)1 << 32)
#define MOST_RECORD ((uint32_t)1 << 20)

/* A record's chain that is scattered over more pieces than this goes the way of chains. */
#define MOST_PIECES 64

/* ------------------------------------------------------------------ single accesses */

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

/* ------------------------------------------------------------------ types */

typedef struct {
    PyTypeObject *memory, *ring, *chain, *batch, *codec;
    PyObject *chain_error;
    bool plain_tuples, reusable_tuples; /* whether a tuple's subclass can be filled in place, and again; probe_tuples */
} state;

typedef struct {
    uint64_t base, last; /* the first and the last guest address: an end could be 2**64 */
    uint8_t *start;
} region;

/* Guest addresses are cut into so many parts of equal size, so that only the regions in one have to be searched. */
#define PARTS 512

typedef struct {
    PyObject_HEAD
    Py_ssize_t count;  /* regions whose buffer is held */
    region *regions;
    Py_buffer *buffers;
    PyObject **views;
    unsigned shift;             /* an address shifted right is its part */
    uint32_t first[PARTS + 1];  /* the last region that begins before each part, and before the end of the last */
} Memory;

typedef struct {
    uint8_t *at;
    uint32_t length;
    uint32_t region;
} piece;

typedef struct {
    PyObject_VAR_HEAD
    Memory *memory;
    uint64_t order, length, room, written;
    uint32_t readable; /* that many pieces are readable, the rest writable */
    uint32_t pieces;
    uint16_t head;
    piece piece_[];
} Chain;

/* Private memory that a batch needs; the ring keeps that of the last batch for the next. */
typedef struct {
    void *at;
    size_t room;
} store;

enum { RECORDS, REQUESTS, ANSWERS, PIECES, STORES };
#define MOST_KEPT ((size_t)1 << 20)

typedef struct {
    PyObject_HEAD
    state *state;
    PyObject *module; /* keeps `state` alive */
    Memory *memory;
    Py_buffer buffers[6];
    int held;
    uint8_t *table, *available, *used, *marks, *strikes, *numbers;
    uint32_t size, in_flight;
    uint16_t next, used_index, called_at;
    bool event_idx, may_indirect;
    bool struck;   /* whether there were strikes when this process took the queue: the keeper strikes the dead alone */
    bool closed;   /* no more records: what comes next has to be looked at, or nothing comes */
    int32_t twice; /* the head in flight that ended a batch of records, or -1 */
    uint64_t order;
    uint16_t *heads;    /* scratch: a batch on its way back */
    uint32_t *written;
    uint8_t *indirect;  /* scratch: a private copy of an indirect table */
    size_t indirect_room;
    piece *pieces;      /* scratch: the chain that is being followed, or those of a batch */
    size_t piece_count, piece_room;
    store stores[STORES];
} Ring;

typedef struct record {
    uint64_t length;
    uint64_t room;
    size_t first; /* its first piece */
    uint16_t head, readable, pieces;
} record;

typedef struct {
    PyObject_HEAD
    state *state;
    PyObject *module;
    Memory *memory;
    Ring *ring;
    uint64_t first_order;
    uint32_t request_size, response_size;
    uint32_t count, done; /* all records, and those that were given back */
    uint32_t exports;     /* who looks at the requests as a buffer */
    record *records;
    piece *pieces;
    uint8_t *requests;
    store stores[STORES]; /* where these are, and answers */
} Batch;

typedef struct {
    char kind;
    uint32_t size;
} field;

typedef struct {
    PyObject_VAR_HEAD
    PyTypeObject *type; /* a subclass of tuple, the structure */
    PyObject *usual;    /* its constructor, for whatever `construct` does not do */
    bool numbers, in_place;
    uint32_t nbytes;
    field fields[];
} Codec;

static void
free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

/* ------------------------------------------------------------------ memory */

static void
memory_dealloc(PyObject *object)
{
    Memory *self = (Memory *)object;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        PyBuffer_Release(&self->buffers[i]);
        Py_DECREF(self->views[i]);
    }
    PyMem_Free(self->regions);
    PyMem_Free(self->buffers);
    PyMem_Free(self->views);
    free_object(object);
}

static void
index_regions(Memory *self)
{
    uint64_t last = self->count ? self->regions[self->count - 1].last : 0;
    uint32_t found = 0;
    for (self->shift = 0; last >> self->shift >= PARTS;)
        self->shift++;
    for (uint32_t part = 0; part <= PARTS; part++) {
        while (found + 1 < self->count && self->regions[found + 1].base >> self->shift < part)
            found++;
        self->first[part] = found;
    }
}

static PyObject *
memory_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *rows;
    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Memory takes no keywords");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!:Memory", &PyList_Type, &rows))
        return NULL;
    Py_ssize_t count = PyList_Size(rows);
    Memory *self = PyObject_New(Memory, type);
    if (!self)
        return NULL;
    self->count = 0;
    size_t room = count ? (size_t)count : 1;
    self->regions = PyMem_Calloc(room, sizeof *self->regions);
    self->buffers = PyMem_Calloc(room, sizeof *self->buffers);
    self->views = PyMem_Calloc(room, sizeof *self->views);
    if (!self->regions || !self->buffers || !self->views) {
        PyErr_NoMemory();
        goto failed;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *row = PyList_GetItem(rows, i), *view;
        unsigned long long base;
        if (!row || !PyTuple_Check(row)) {
            PyErr_SetString(PyExc_TypeError, "a region is a pair of base and memory");
            goto failed;
        }
        PyObject *number = PyTuple_GetItem(row, 0);
        view = PyTuple_GetItem(row, 1);
        if (!number || !view)
            goto failed;
        base = PyLong_AsUnsignedLongLong(number);
        if (PyErr_Occurred() || PyObject_GetBuffer(view, &self->buffers[i], PyBUF_WRITABLE) < 0)
            goto failed;
        Py_INCREF(view);
        self->views[i] = view;
        self->count = i + 1;
        uint64_t length = (uint64_t)self->buffers[i].len;
        self->regions[i] = (region){base, base + length - 1, self->buffers[i].buf};
        if (!length || base + (length - 1) < base || (i && self->regions[i - 1].last >= base)) {
            PyErr_SetString(PyExc_ValueError, "regions are empty, overlap, are out of order or end beyond 2**64");
            goto failed;
        }
    }
    index_regions(self);
    return (PyObject *)self;
failed:
    Py_DECREF((PyObject *)self);
    return NULL;
}

/* The region that holds `address`, or -1. Without a branch for each step: a guest's addresses cannot be foretold. */
static inline Py_ssize_t
find_region(const Memory *memory, uint64_t address)
{
    uint64_t part = address >> memory->shift;
    if (part >= PARTS || !memory->count)
        return -1;
    const region *low = memory->regions + memory->first[part];
    uint32_t left = memory->first[part + 1] - memory->first[part] + 1;
    while (left > 1) {
        uint32_t half = left / 2;
        low += low[half].base <= address ? half : 0;
        left -= half;
    }
    return low->base <= address && address <= low->last ? low - memory->regions : -1;
}

static PyType_Slot memory_slots[] = {
    {Py_tp_doc, (void *)"Guest memory, held: Memory([(base, buffer), ...]), sorted by base."},
    {Py_tp_new, memory_new},
    {Py_tp_dealloc, memory_dealloc},
    {0, NULL},
};
static PyType_Spec memory_spec = {"pyvirtio.ring._accel.Memory", sizeof(Memory), 0, Py_TPFLAGS_DEFAULT, memory_slots};

/* ------------------------------------------------------------------ a chain */

static void
chain_dealloc(PyObject *object)
{
    Py_DECREF((PyObject *)((Chain *)object)->memory);
    free_object(object);
}

static Chain *
new_chain(const state *state, Memory *memory, const piece *pieces, uint32_t number)
{
    Chain *self = PyObject_NewVar(Chain, state->chain, (Py_ssize_t)number);
    if (!self)
        return NULL;
    Py_INCREF((PyObject *)memory);
    self->memory = memory;
    self->order = self->length = self->room = self->written = 0;
    self->readable = 0;
    self->pieces = number;
    self->head = 0;
    if (number)
        memcpy(self->piece_, pieces, number * sizeof *pieces);
    return self;
}

static PyObject *
chain_views(const Chain *self, uint32_t from, uint32_t upto)
{
    PyObject *views = PyList_New((Py_ssize_t)(upto - from));
    for (uint32_t i = from; views && i < upto; i++) {
        const piece *part = &self->piece_[i];
        Py_ssize_t start = part->at - self->memory->regions[part->region].start;
        PyObject *view = PySequence_GetSlice(self->memory->views[part->region], start, start + (Py_ssize_t)part->length);
        if (!view || PyList_SetItem(views, (Py_ssize_t)(i - from), view) < 0)
            Py_CLEAR(views);
    }
    return views;
}

static PyObject *chain_get_readable(PyObject *self, void *Py_UNUSED(_)) { return chain_views((Chain *)self, 0, ((Chain *)self)->readable); }
static PyObject *chain_get_writable(PyObject *self, void *Py_UNUSED(_)) { return chain_views((Chain *)self, ((Chain *)self)->readable, ((Chain *)self)->pieces); }
static PyObject *chain_get_length(PyObject *self, void *Py_UNUSED(_)) { return PyLong_FromUnsignedLongLong(((Chain *)self)->length); }
static PyObject *chain_get_room(PyObject *self, void *Py_UNUSED(_)) { return PyLong_FromUnsignedLongLong(((Chain *)self)->room); }
static PyObject *chain_get_head(PyObject *self, void *Py_UNUSED(_)) { return PyLong_FromLong(((Chain *)self)->head); }
static PyObject *chain_get_order(PyObject *self, void *Py_UNUSED(_)) { return PyLong_FromUnsignedLongLong(((Chain *)self)->order); }
static PyObject *chain_get_written(PyObject *self, void *Py_UNUSED(_)) { return PyLong_FromUnsignedLongLong(((Chain *)self)->written); }
static PyObject *chain_get_error(PyObject *Py_UNUSED(self), void *Py_UNUSED(_)) { Py_RETURN_NONE; }

static int
chain_set_written(PyObject *object, PyObject *value, void *Py_UNUSED(_))
{
    Chain *self = (Chain *)object;
    unsigned long long written = value ? PyLong_AsUnsignedLongLong(value) : self->room + 1;
    if (PyErr_Occurred())
        return -1;
    if (written > self->room) {
        PyErr_SetString(PyExc_ValueError, "more than there is room for");
        return -1;
    }
    self->written = written;
    return 0;
}

static PyObject *
chain_read(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    const Chain *self = (Chain *)object;
    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "read(limit, start=0)");
        return NULL;
    }
    Py_ssize_t limit = PyNumber_AsSsize_t(args[0], NULL); /* clips what is too large */
    Py_ssize_t start = count == 2 ? PyNumber_AsSsize_t(args[1], NULL) : 0;
    if (PyErr_Occurred())
        return NULL;
    uint64_t skip = start > 0 ? (uint64_t)start : 0, left = 0;
    if (limit > 0 && skip < self->length)
        left = self->length - skip < (uint64_t)limit ? self->length - skip : (uint64_t)limit;
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)left);
    if (!data)
        return NULL;
    char *to = PyBytes_AsString(data);
    for (uint32_t i = 0; i < self->readable && left; i++) {
        const piece *part = &self->piece_[i];
        if (skip >= part->length) {
            skip -= part->length;
            continue;
        }
        uint64_t number = part->length - skip < left ? part->length - skip : left;
        memcpy(to, part->at + skip, number);
        to += number;
        left -= number;
        skip = 0;
    }
    return data;
}

/* Copies into the writable pieces from offset `skip` on; the caller knows that there is room. */
static void
scatter(const piece *pieces, size_t count, uint64_t skip, const uint8_t *from, uint64_t left)
{
    for (size_t i = 0; i < count && left; i++) {
        if (skip >= pieces[i].length) {
            skip -= pieces[i].length;
            continue;
        }
        uint64_t number = pieces[i].length - skip < left ? pieces[i].length - skip : left;
        memcpy(pieces[i].at + skip, from, number);
        from += number;
        left -= number;
        skip = 0;
    }
}

static PyObject *
chain_write(PyObject *object, PyObject *data)
{
    Chain *self = (Chain *)object;
    Py_buffer buffer;
    if (PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    uint64_t number = (uint64_t)buffer.len, left = self->room - self->written;
    if (number > left) {
        PyBuffer_Release(&buffer);
        const state *state = PyType_GetModuleState(Py_TYPE(object));
        PyErr_Format(state->chain_error, "an answer of %llu bytes; the driver left room for %llu",
                     (unsigned long long)number, (unsigned long long)left);
        return NULL;
    }
    scatter(self->piece_ + self->readable, self->pieces - self->readable, self->written, buffer.buf, number);
    self->written += number;
    PyBuffer_Release(&buffer);
    Py_RETURN_NONE;
}

static PyObject *
chain_repr(PyObject *object)
{
    const Chain *self = (Chain *)object;
    return PyUnicode_FromFormat("Chain(head=%u, readable=%llu, writable=%llu, error=None)", (unsigned)self->head,
                                (unsigned long long)self->length, (unsigned long long)self->room);
}

static PyMethodDef chain_methods[] = {
    {"read", (PyCFunction)(void (*)(void))chain_read, METH_FASTCALL, "Copy at most `limit` readable bytes, from offset `start` on."},
    {"write", chain_write, METH_O, "Write after what was written before."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef chain_getset[] = {
    {"head", chain_get_head, NULL, NULL, NULL},
    {"order", chain_get_order, NULL, NULL, NULL},
    {"readable", chain_get_readable, NULL, NULL, NULL},
    {"writable", chain_get_writable, NULL, NULL, NULL},
    {"length", chain_get_length, NULL, NULL, NULL},
    {"room", chain_get_room, NULL, NULL, NULL},
    {"written", chain_get_written, chain_set_written, NULL, NULL},
    {"error", chain_get_error, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot chain_slots[] = {
    {Py_tp_doc, (void *)"A descriptor chain; as pyvirtio.ring.Chain."},
    {Py_tp_dealloc, chain_dealloc},
    {Py_tp_methods, chain_methods},
    {Py_tp_getset, chain_getset},
    {Py_tp_repr, chain_repr},
    {0, NULL},
};
static PyType_Spec chain_spec = {
    "pyvirtio.ring._accel.Chain", offsetof(Chain, piece_), sizeof(piece),
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, chain_slots,
};

/* ------------------------------------------------------------------ following a chain */

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

/* ------------------------------------------------------------------ the journal */

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
give_back(Ring *self, uint32_t n, bool same, uint32_t length)
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
call_wanted(const Ring *self)
{
    uint16_t old = self->called_at, new = self->used_index;
    full_fence(); /* the used index must be out before the driver's wish is read */
    if (self->event_idx) {
        uint16_t event = load16(self->available + 4 + 2 * (size_t)self->size);
        return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
    }
    return new != old && !(load16(self->available) & NO_INTERRUPT);
}

/* ------------------------------------------------------------------ the ring */

static void
ring_dealloc(PyObject *object)
{
    Ring *self = (Ring *)object;
    for (int i = 0; i < self->held; i++)
        PyBuffer_Release(&self->buffers[i]);
    PyMem_Free(self->heads);
    PyMem_Free(self->written);
    PyMem_Free(self->indirect);
    for (int i = 0; i < STORES; i++)
        PyMem_Free(self->stores[i].at);
    Py_XDECREF((PyObject *)self->memory);
    Py_XDECREF(self->module);
    free_object(object);
}

static PyObject *
ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "table", "available", "used", "marks", "strikes", "numbers", "size",
                            "event_idx", "may_indirect", NULL};
    PyObject *memory, *parts[6];
    unsigned size;
    int event_idx, may_indirect;
    PyObject *module = PyType_GetModule(type);
    state *state = module ? PyModule_GetState(module) : NULL;
    if (!state
        || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOOOOOIpp:Ring", names, state->memory, &memory, &parts[0],
                                        &parts[1], &parts[2], &parts[3], &parts[4], &parts[5], &size, &event_idx,
                                        &may_indirect))
        return NULL;
    if (!size || size > 32768 || size & (size - 1)) {
        PyErr_SetString(PyExc_ValueError, "a queue has a power of two of entries, up to 32768");
        return NULL;
    }
    Ring *self = PyObject_New(Ring, type);
    if (!self)
        return NULL;
    memset((char *)self + sizeof(PyObject), 0, sizeof *self - sizeof(PyObject));
    Py_INCREF(module);
    self->module = module;
    self->state = state;
    Py_INCREF(memory);
    self->memory = (Memory *)memory;
    self->size = size;
    self->event_idx = event_idx;
    self->may_indirect = may_indirect;
    self->twice = -1;
    const size_t needs[6] = {(size_t)DESCRIPTOR * size, 6 + 2 * (size_t)size, 6 + 8 * (size_t)size,
                             MARK_STATES + (size_t)STATE * size, size, 8 * N_ALL};
    /* What the other side reads and writes meanwhile needs its natural alignment. */
    const uintptr_t aligns[6] = {8, 2, 4, 1, 1, 1};
    uint8_t **places[6] = {&self->table, &self->available, &self->used, &self->marks, &self->strikes, &self->numbers};
    for (int i = 0; i < 6; i++) {
        if (PyObject_GetBuffer(parts[i], &self->buffers[i], PyBUF_WRITABLE) < 0)
            goto failed;
        self->held = i + 1;
        *places[i] = self->buffers[i].buf;
        if ((size_t)self->buffers[i].len < needs[i] || (uintptr_t)self->buffers[i].buf % aligns[i]) {
            PyErr_SetString(PyExc_ValueError, "a part of the ring or its journal is too short or misaligned");
            goto failed;
        }
    }
    for (uint32_t i = 0; i < size; i++)
        self->struck |= self->strikes[i] != 0;
    self->heads = PyMem_Calloc(size, sizeof *self->heads);
    self->written = PyMem_Calloc(size, sizeof *self->written);
    if (!self->heads || !self->written) {
        PyErr_NoMemory();
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF((PyObject *)self);
    return NULL;
}

/* pop(limit) -> [Chain, ...], or None where the reference engine has to look at what comes next */
static PyObject *
ring_pop(PyObject *object, PyObject *argument)
{
    Ring *self = (Ring *)object;
    Py_ssize_t limit = PyNumber_AsSsize_t(argument, NULL);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    int32_t ahead = pending(self);
    if (ahead < 0)
        Py_RETURN_NONE;
    Py_ssize_t most = limit < 0 ? 0 : limit < ahead ? limit : ahead, got = 0;
    PyObject *chains = PyList_New(most);
    if (!chains)
        return NULL;
    for (; got < most; got++) {
        uint16_t head;
        walk walk;
        self->piece_count = 0;
        if (!next_head(self, &head) || !follow(self, head, &walk))
            break;
        Chain *chain = new_chain(self->state, self->memory, self->pieces, (uint32_t)self->piece_count);
        if (!chain)
            break;
        if (!begin(self, head)) {
            Py_DECREF((PyObject *)chain);
            break;
        }
        chain->head = head;
        chain->order = self->order;
        chain->readable = (uint32_t)walk.readable;
        chain->length = walk.readable_bytes;
        chain->room = walk.writable_bytes;
        PyList_SetItem(chains, got, (PyObject *)chain); /* cannot fail: it is our own list */
    }
    if (got < most) {
        if (PyErr_Occurred() && !got)
            goto failed;
        PyErr_Clear(); /* out of memory behind the first: the next call says so again */
        if (!got) {
            Py_DECREF(chains);
            Py_RETURN_NONE;
        }
        if (PyList_SetSlice(chains, got, most, NULL) < 0)
            goto failed;
    }
    return chains;
failed:
    Py_DECREF(chains);
    return NULL;
}

static bool
head_of(const Ring *self, PyObject *chain, uint16_t *head, uint32_t *written)
{
    if (Py_TYPE(chain) == self->state->chain) {
        *head = ((Chain *)chain)->head;
        *written = (uint32_t)((Chain *)chain)->written;
    } else { /* one that the reference engine popped */
        PyObject *first = PyObject_GetAttrString(chain, "head");
        PyObject *second = first ? PyObject_GetAttrString(chain, "written") : NULL;
        unsigned long number = first && second ? PyLong_AsUnsignedLong(first) : 0;
        unsigned long length = first && second && !PyErr_Occurred() ? PyLong_AsUnsignedLongMask(second) : 0;
        Py_XDECREF(first);
        Py_XDECREF(second);
        if (PyErr_Occurred())
            return false;
        *head = (uint16_t)(number < self->size ? number : UINT16_MAX);
        *written = (uint32_t)length;
    }
    if (*head < self->size)
        return true;
    PyErr_SetString(PyExc_ValueError, "a chain of another queue");
    return false;
}

static PyObject *
ring_push(PyObject *object, PyObject *chains)
{
    Ring *self = (Ring *)object;
    Py_ssize_t number = PySequence_Size(chains);
    if (number < 0)
        return NULL;
    if (number > (Py_ssize_t)self->size) {
        PyErr_SetString(PyExc_ValueError, "more chains than the queue has entries");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < number; i++) {
        PyObject *chain = PySequence_GetItem(chains, i);
        bool good = chain && head_of(self, chain, &self->heads[i], &self->written[i]);
        Py_XDECREF(chain);
        if (!good)
            return NULL;
    }
    give_back(self, (uint32_t)number, false, 0);
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------ records */

/* Gives each store to the ring, unless that has a larger one; what is large is not kept. */
static void
give_stores(Batch *batch)
{
    for (int i = 0; i < STORES; i++) {
        store *kept = &batch->ring->stores[i], mine = batch->stores[i];
        if (mine.room > kept->room && mine.room <= MOST_KEPT) {
            batch->stores[i] = *kept;
            *kept = mine;
        }
        PyMem_Free(batch->stores[i].at);
    }
    batch->ring->pieces = batch->ring->stores[PIECES].at;
    batch->ring->piece_room = batch->ring->stores[PIECES].room / sizeof(piece);
}

static void
batch_dealloc(PyObject *object)
{
    Batch *self = (Batch *)object;
    give_stores(self);
    Py_XDECREF((PyObject *)self->ring);
    Py_XDECREF((PyObject *)self->memory);
    Py_XDECREF(self->module);
    free_object(object);
}

static Batch *
new_batch(Ring *ring, uint32_t request_size, uint32_t response_size)
{
    Batch *self = PyObject_New(Batch, ring->state->batch);
    if (!self)
        return NULL;
    memset((char *)self + sizeof(PyObject), 0, sizeof *self - sizeof(PyObject));
    Py_INCREF(ring->module);
    Py_INCREF((PyObject *)ring);
    Py_INCREF((PyObject *)ring->memory);
    self->state = ring->state;
    self->module = ring->module;
    self->ring = ring;
    self->memory = ring->memory;
    self->request_size = request_size;
    self->response_size = response_size;
    for (int i = 0; i < PIECES; i++) { /* the pieces are the ring's until the batch is complete */
        self->stores[i] = ring->stores[i];
        ring->stores[i] = (store){NULL, 0};
    }
    return self;
}

/* Copies the first `left` bytes of a chain's readable pieces. */
static inline void
gather(const piece *pieces, uint32_t left, uint8_t *to)
{
    for (;; pieces++) {
        uint32_t here = pieces->length < left ? pieces->length : left;
        copy(to, pieces->at, here);
        left -= here;
        if (!left)
            return;
        to += here;
    }
}

static bool
size_argument(PyObject *argument, uint32_t *size)
{
    long value = PyLong_AsLong(argument);
    if (value == -1 && PyErr_Occurred())
        return false;
    if (value < 1 || value > (long)MOST_RECORD) {
        PyErr_SetString(PyExc_ValueError, "a record has from 1 byte to 1 MiB");
        return false;
    }
    *size = (uint32_t)value;
    return true;
}

/* Follows up to `number` chains; gives how many come one after the other that are plainly right and large enough. */
static uint32_t
follow_block(Ring *self, Batch *batch, uint32_t number)
{
    record *record = &batch->records[batch->count];
    for (uint32_t i = 0; i < number; i++, record++) {
        uint16_t head = head_ahead(self, i);
        walk walk;
        if (head >= self->size || !follow(self, head, &walk))
            return i;
        size_t pieces = self->piece_count - walk.first;
        if (walk.readable_bytes < batch->request_size || walk.writable_bytes < batch->response_size
            || pieces > MOST_PIECES) {
            self->piece_count = walk.first;
            return i;
        }
        *record = (struct record){walk.readable_bytes, walk.writable_bytes, walk.first, head, (uint16_t)walk.readable,
                                  (uint16_t)pieces};
        ask_for_buffer(&self->pieces[walk.first], batch->request_size < MOST_AHEAD ? batch->request_size : MOST_AHEAD);
    }
    return number;
}

/* Takes up to `number` chains as records, of `left` that there are; gives whether it took all of them. */
static bool
pop_block(Ring *self, Batch *batch, uint32_t number, uint32_t left)
{
    uint32_t upto = left < 2 * BLOCK ? left : 2 * BLOCK;
    ask_for_heads(self, number, upto);
    uint32_t followed = follow_block(self, batch, number);
    ask_for_their_next(self, number, upto);
    for (uint32_t i = 0; i < followed; i++) {
        const record *record = &batch->records[batch->count];
        if (!begin(self, record->head)) {
            self->twice = record->head;
            self->closed = true;
            self->piece_count = record->first;
            return false;
        }
        gather(self->pieces + record->first, batch->request_size,
               batch->requests + (size_t)batch->count * batch->request_size);
        batch->count++;
    }
    return followed == number;
}

/* Takes up to `limit` records into a batch whose own are all answered; gives whether there are any. */
static bool
fill_batch(Ring *self, Batch *batch, uint32_t limit)
{
    int32_t ahead = pending(self);
    if (ahead <= 0 || self->closed)
        return false;
    uint32_t most = limit < (uint32_t)ahead ? limit : (uint32_t)ahead;
    if (!reserve(&batch->stores[RECORDS], most * sizeof *batch->records)
        || !reserve(&batch->stores[REQUESTS], (size_t)most * batch->request_size))
        return false; /* the reference engine raises MemoryError if it must */
    batch->records = batch->stores[RECORDS].at;
    batch->requests = batch->stores[REQUESTS].at;
    if (batch->pieces) { /* while a batch is made, they are the ring's */
        PyMem_Free(self->stores[PIECES].at);
        self->stores[PIECES] = batch->stores[PIECES];
        self->pieces = batch->pieces;
        self->piece_room = self->stores[PIECES].room / sizeof(piece);
    }
    Memory *old = batch->memory;
    Py_INCREF((PyObject *)self->memory);
    batch->memory = self->memory;
    Py_DECREF((PyObject *)old);
    batch->count = batch->done = 0;
    batch->first_order = self->order + 1;
    self->piece_count = 0;
    ask_for_heads(self, 0, most < BLOCK ? most : BLOCK);
    for (uint32_t block, left = most; left; left -= block) {
        block = left < BLOCK ? left : BLOCK;
        if (!pop_block(self, batch, block, left))
            break;
    }
    in_order(); /* the requests are in private memory, and are not looked at in guest memory again */
    batch->stores[PIECES] = self->stores[PIECES];
    batch->pieces = self->pieces;
    self->stores[PIECES] = (store){NULL, 0};
    self->pieces = NULL;
    self->piece_count = self->piece_room = 0;
    return batch->count;
}

/* pop_records(limit, request_size, response_size) -> Batch, or None where the next chain has to go another way */
static PyObject *
ring_pop_records(PyObject *object, PyObject *const *args, Py_ssize_t number)
{
    Ring *self = (Ring *)object;
    uint32_t request_size, response_size;
    if (number != 3) {
        PyErr_SetString(PyExc_TypeError, "pop_records(limit, request_size, response_size)");
        return NULL;
    }
    long limit = PyLong_AsLong(args[0]);
    if ((limit == -1 && PyErr_Occurred()) || !size_argument(args[1], &request_size)
        || !size_argument(args[2], &response_size))
        return NULL;
    if (limit <= 0 || pending(self) <= 0)
        Py_RETURN_NONE;
    Batch *batch = new_batch(self, request_size, response_size);
    if (batch && !fill_batch(self, batch, limit < UINT16_MAX ? (uint32_t)limit : UINT16_MAX)) {
        Py_DECREF((PyObject *)batch);
        Py_RETURN_NONE;
    }
    return (PyObject *)batch;
}

/* Gives back the next `n` records of a batch; their answers are in guest memory already. */
static void
give_records_back(Ring *self, Batch *batch, uint32_t n)
{
    uint64_t read = 0;
    for (uint32_t i = 0; i < n; i++) {
        const record *record = &batch->records[batch->done + i];
        self->heads[i] = record->head;
        read += record->length;
    }
    give_back(self, n, true, batch->response_size);
    batch->done += n;
    count(self, N_REQUESTS, n);
    count(self, N_BYTES_READ, read);
    count(self, N_BYTES_WRITTEN, (uint64_t)n * batch->response_size);
}

static inline void
answer_record(const Batch *batch, uint32_t index, const uint8_t *answer)
{
    const record *record = &batch->records[index];
    const piece *pieces = batch->pieces + record->first + record->readable;
    if (pieces->length >= batch->response_size)
        copy(pieces->at, answer, batch->response_size);
    else
        scatter(pieces, (size_t)(record->pieces - record->readable), 0, answer, batch->response_size);
}

static inline void
ask_for_answer(const Batch *batch, uint32_t index)
{
    const record *record = &batch->records[index];
    __builtin_prefetch(batch->pieces[record->first + record->readable].at, 1);
}

static bool
is_own_batch(const Ring *self, PyObject *argument)
{
    if (Py_TYPE(argument) == self->state->batch && ((Batch *)argument)->ring == self)
        return true;
    PyErr_SetString(PyExc_TypeError, "a batch that this queue popped");
    return false;
}

/* Answers the next records of a batch, as many as there are answers. */
static bool
push_answers(Ring *self, Batch *batch, PyObject *object)
{
    Py_buffer answers;
    if (PyObject_GetBuffer(object, &answers, PyBUF_SIMPLE) < 0)
        return false;
    size_t each = batch->response_size, length = (size_t)answers.len;
    if (length % each || length / each > batch->count - batch->done) {
        PyBuffer_Release(&answers);
        PyErr_SetString(PyExc_ValueError, "the answers are not as long as the records that are left");
        return false;
    }
    uint32_t n = (uint32_t)(length / each);
    const uint8_t *from = answers.buf;
    for (uint32_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            ask_for_answer(batch, batch->done + i + AHEAD);
        answer_record(batch, batch->done + i, from + i * each);
    }
    PyBuffer_Release(&answers);
    give_records_back(self, batch, n);
    return true;
}

/* push_records(batch, answers): as many as there are answers, from the first that is left on */
static PyObject *
ring_push_records(PyObject *object, PyObject *const *args, Py_ssize_t number)
{
    Ring *self = (Ring *)object;
    if (number != 2) {
        PyErr_SetString(PyExc_TypeError, "push_records(batch, answers)");
        return NULL;
    }
    if (!is_own_batch(self, args[0]) || !push_answers(self, (Batch *)args[0], args[1]))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
batch_take(PyObject *object, PyObject *Py_UNUSED(_))
{
    Batch *self = (Batch *)object;
    uint32_t index = self->done;
    if (index == self->count) {
        PyErr_SetString(PyExc_IndexError, "no record is left");
        return NULL;
    }
    const record *record = &self->records[index];
    Chain *chain = new_chain(self->state, self->memory, self->pieces + record->first, record->pieces);
    if (!chain)
        return NULL;
    chain->head = record->head;
    chain->order = self->first_order + index;
    chain->readable = record->readable;
    chain->length = record->length;
    chain->room = record->room;
    self->done++;
    return (PyObject *)chain;
}

static int
batch_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    Batch *self = (Batch *)object;
    if (PyBuffer_FillInfo(view, object, self->requests, (Py_ssize_t)self->count * self->request_size, 1, flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void batch_releasebuffer(PyObject *object, Py_buffer *Py_UNUSED(view)) { ((Batch *)object)->exports--; }

static Py_ssize_t batch_length(PyObject *object) { return (Py_ssize_t)(((Batch *)object)->count - ((Batch *)object)->done); }
static PyObject *batch_get_requests(PyObject *object, void *Py_UNUSED(_)) { return Py_NewRef(object); }
static PyObject *batch_get_order(PyObject *object, void *Py_UNUSED(_)) { return PyLong_FromUnsignedLongLong(((Batch *)object)->first_order + ((Batch *)object)->done); }

static PyMethodDef batch_methods[] = {
    {"take", batch_take, METH_NOARGS, "Take the next record out, as a chain."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef batch_getset[] = {
    {"requests", batch_get_requests, NULL, "All requests, as a buffer.", NULL},
    {"order", batch_get_order, NULL, "The next record's place in the order of arrival.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot batch_slots[] = {
    {Py_tp_doc, (void *)"Requests of one shape. As a buffer: all of them, private; its length: how many are left."},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_methods, batch_methods},
    {Py_tp_getset, batch_getset},
    {Py_sq_length, batch_length},
    {Py_bf_getbuffer, batch_getbuffer},
    {Py_bf_releasebuffer, batch_releasebuffer},
    {0, NULL},
};
static PyType_Spec batch_spec = {
    "pyvirtio.ring._accel.Batch", sizeof(Batch), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    batch_slots,
};

/* ------------------------------------------------------------------ one call of Python a record */

static void
codec_dealloc(PyObject *object)
{
    Py_DECREF((PyObject *)((Codec *)object)->type);
    Py_XDECREF(((Codec *)object)->usual);
    free_object(object);
}

/* Codec(structure, ["I", "32s"], usual): the fields' letters in the language of the module struct; its constructor */
static PyObject *
codec_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *structure, *codes, *usual;
    const state *state = PyType_GetModuleState(type);
    if (!state || !PyArg_ParseTuple(args, "O!O!O:Codec", &PyType_Type, &structure, &PyList_Type, &codes, &usual))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)structure, &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "a structure is a tuple");
        return NULL;
    }
    Py_ssize_t number = PyList_Size(codes);
    Codec *self = PyObject_NewVar(Codec, type, number);
    if (!self)
        return NULL;
    Py_INCREF(structure);
    Py_INCREF(usual);
    self->type = (PyTypeObject *)structure;
    self->usual = usual;
    self->nbytes = 0;
    self->numbers = true;
    self->in_place = state->plain_tuples;
    for (Py_ssize_t i = 0; i < number; i++) {
        const char *code = PyUnicode_AsUTF8AndSize(PyList_GetItem(codes, i), NULL);
        if (!code)
            goto failed;
        unsigned long size = strtoul(code, (char **)&code, 10); /* 0 where there is none */
        switch (*code) {
        case 'B': size = size ? 0 : 1; break;
        case 'H': size = size ? 0 : 2; break;
        case 'I': size = size ? 0 : 4; break;
        case 'Q': size = size ? 0 : 8; break;
        case 's': break;
        default: size = 0;
        }
        if (!size || size > MOST_RECORD || code[1]) {
            PyErr_SetString(PyExc_ValueError, "a field of an unknown kind");
            goto failed;
        }
        self->numbers = self->numbers && *code != 's';
        self->fields[i] = (field){*code, (uint32_t)size};
        self->nbytes += (uint32_t)size;
        if (self->nbytes > MOST_RECORD) {
            PyErr_SetString(PyExc_ValueError, "a structure of more than 1 MiB");
            goto failed;
        }
    }
    return (PyObject *)self;
failed:
    Py_DECREF((PyObject *)self);
    return NULL;
}

/* construct(cls, *values, **named): the structure's constructor, which is quick for a number for each field */
static PyObject *
codec_construct(PyObject *object, PyObject *const *args, Py_ssize_t number, PyObject *names)
{
    const Codec *self = (Codec *)object;
    Py_ssize_t fields = Py_SIZE(object), named = names ? PyTuple_Size(names) : 0;
    if (number == fields + 1 && !named && self->numbers && self->in_place && args[0] == (PyObject *)self->type) {
        PyObject *made = ((allocfunc)PyType_GetSlot(self->type, Py_tp_alloc))(self->type, fields);
        for (Py_ssize_t i = 0; made && i < fields; i++) {
            Py_INCREF(args[i + 1]);
            if (PyTuple_SetItem(made, i, args[i + 1]) < 0)
                Py_CLEAR(made);
        }
        return made;
    }
    PyObject *values = PyTuple_New(number), *result = NULL, *keywords = named ? PyDict_New() : NULL;
    if (!values || (named && !keywords))
        goto done;
    for (Py_ssize_t i = 0; i < number; i++) {
        Py_INCREF(args[i]);
        if (PyTuple_SetItem(values, i, args[i]) < 0)
            goto done;
    }
    for (Py_ssize_t i = 0; i < named; i++)
        if (PyDict_SetItem(keywords, PyTuple_GetItem(names, i), args[number + i]) < 0)
            goto done;
    result = PyObject_Call(self->usual, values, keywords);
done:
    Py_XDECREF(values);
    Py_XDECREF(keywords);
    return result;
}

static PyMethodDef codec_methods[] = {
    {"construct", (PyCFunction)(void (*)(void))codec_construct, METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot codec_slots[] = {
    {Py_tp_methods, codec_methods},
    {Py_tp_doc, (void *)"How a structure looks on the wire."},
    {Py_tp_new, codec_new},
    {Py_tp_dealloc, codec_dealloc},
    {0, NULL},
};
static PyType_Spec codec_spec = {
    "pyvirtio.ring._accel.Codec", offsetof(Codec, fields), sizeof(field), Py_TPFLAGS_DEFAULT, codec_slots,
};

static uint64_t
load_number(const uint8_t *at, uint32_t size)
{
    uint64_t value = 0;
    memcpy(&value, at, size < sizeof value ? size : sizeof value); /* little-endian hosts only */
    return value;
}

static PyObject *
unpack_field(const field *field, const uint8_t *from)
{
    return field->kind == 's' ? PyBytes_FromStringAndSize((const char *)from, (Py_ssize_t)field->size)
                              : PyLong_FromUnsignedLongLong(load_number(from, field->size));
}

/* Puts the fields into a tuple that nobody else has; bytes that are the same already stay. */
static bool
fill(const Codec *codec, PyObject *tuple, const uint8_t *from)
{
    Py_ssize_t number = Py_SIZE((PyObject *)codec);
    for (Py_ssize_t i = 0; i < number; from += codec->fields[i++].size) {
        const field *field = &codec->fields[i];
        PyObject *old = field->kind == 's' ? PyTuple_GetItem(tuple, i) : NULL;
        if (old && memcmp(PyBytes_AsString(old), from, field->size) == 0)
            continue;
        PyObject *item = unpack_field(field, from);
        if (!item || PyTuple_SetItem(tuple, i, item) < 0)
            return false;
    }
    return true;
}

/* Gives a structure, which is `last`, the one before it, if the device's method has not kept that. */
static PyObject *
unpack(const state *state, const Codec *codec, const uint8_t *from, PyObject *last)
{
    Py_ssize_t number = Py_SIZE((PyObject *)codec);
    if (last && state->reusable_tuples && Py_REFCNT(last) == 1) {
        if (fill(codec, last, from))
            return last;
        Py_DECREF(last);
        return NULL;
    }
    Py_XDECREF(last);
    PyObject *plain = NULL, *made;
    if (state->plain_tuples)
        made = ((allocfunc)PyType_GetSlot(codec->type, Py_tp_alloc))(codec->type, number);
    else
        made = plain = PyTuple_New(number);
    for (Py_ssize_t i = 0; made && i < number; from += codec->fields[i++].size) {
        PyObject *item = unpack_field(&codec->fields[i], from);
        if (!item || PyTuple_SetItem(made, i, item) < 0)
            Py_CLEAR(made);
    }
    if (!made || !plain)
        return made;
    newfunc new_tuple = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    PyObject *args = PyTuple_New(1);
    if (!args) {
        Py_DECREF(plain);
        return NULL;
    }
    PyTuple_SetItem(args, 0, plain);
    made = new_tuple(codec->type, args, NULL);
    Py_DECREF(args);
    return made;
}

/* Packs one value; gives whether that was possible, never an error. */
static inline bool
pack_field(const field *field, PyObject *item, uint8_t *to)
{
    if (field->kind == 's') {
        if (!PyBytes_Check(item) || PyBytes_Size(item) != (Py_ssize_t)field->size)
            return false;
        memcpy(to, PyBytes_AsString(item), field->size);
        return true;
    }
    if (!PyLong_Check(item))
        return false;
    unsigned long long value = PyLong_AsUnsignedLongLong(item);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    if (field->size < 8 && value >> 8 * field->size)
        return false;
    memcpy(to, &value, field->size);
    return true;
}

/* Packs a structure of exactly the codec's type, or the number that is its only field; as `pack_field`. */
static bool
pack(const Codec *codec, PyObject *answer, uint8_t *to)
{
    Py_ssize_t number = Py_SIZE((PyObject *)codec);
    if (Py_TYPE(answer) != codec->type)
        return number == 1 && codec->numbers && pack_field(codec->fields, answer, to);
    if (PyTuple_Size(answer) != number)
        return false;
    for (Py_ssize_t i = 0; i < number; to += codec->fields[i++].size)
        if (!pack_field(&codec->fields[i], PyTuple_GetItem(answer, i), to))
            return false;
    return true;
}

/* A time, and the processor's own count of cycles when it was read. */
typedef struct {
    int64_t now;
    uint64_t cycles;
} moment;

static inline uint64_t
count_cycles(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

/*
 * Whether the deadline cannot be over yet, for the clock takes as long as a good part of a request. No processor
 * counts slower than 2 ns a cycle; a count that goes backwards, on another processor, looks like a long time.
 */
static inline bool
surely_before(const moment *moment, int64_t deadline)
{
    uint64_t cycles = count_cycles() - moment->cycles;
    return moment->cycles && cycles < INT32_MAX && moment->now + 2 * (int64_t)cycles < deadline;
}

/* The nanoseconds of the service's clock; `clock` is None for the system's own, monotonic_ns. */
static inline bool
read_clock(PyObject *clock, moment *moment)
{
    if (clock == Py_None) {
        struct timespec time;
        moment->cycles = count_cycles();
        clock_gettime(CLOCK_MONOTONIC, &time);
        moment->now = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
        return true;
    }
    PyObject *number = PyObject_CallNoArgs(clock);
    moment->now = number ? PyLong_AsLongLong(number) : 0;
    Py_XDECREF(number);
    return !PyErr_Occurred();
}

/* Takes the exception that is set, if it is one that a device's author may cause (Exception). */
static PyObject *
take_exception(void)
{
    PyObject *type, *value, *trace;
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return NULL;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace)
        PyException_SetTraceback(value, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
}

static inline void
relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/*
 * Takes more records into a batch that is answered, if at least `fewest` wait and the caller has nothing to do before:
 * the driver wants no interrupt, and nobody still looks at the requests that were in there.
 *
 * A driver that wants no interrupt looks at the used ring itself, and submits again within a microsecond or two. To
 * go back to Python takes longer, so it is awaited for so long.
 */
enum { LOOKS = 32 };

static bool
go_on(Ring *self, Batch *batch, uint32_t fewest, uint32_t most)
{
    if (batch->done < batch->count || batch->exports || call_wanted(self))
        return false;
    self->called_at = self->used_index;
    for (int i = 0; i < LOOKS && pending(self) >= 0 && pending(self) < (int32_t)fewest; i++)
        relax();
    return pending(self) >= (int32_t)fewest && fill_batch(self, batch, most);
}

/* Journal.running: so that a death inside the method falls on these requests and no other. */
static inline void
mark_running(Ring *self, const Batch *batch, uint32_t index, uint32_t n, int64_t since)
{
    set_number(self, N_RUNNING_FROM, batch->first_order + index);
    set_number(self, N_RUNNING_SINCE, (uint64_t)since);
    in_order();
    set_number(self, N_RUNNING_NUMBER, n);
    in_order();
}

/*
 * answer_records(batch, answers, most, deadline, clock): while `answers` gives a buffer, and not None
 *
 * Has `answers` answer a batch as a whole, and then whatever else waits, until the deadline is over, few are left or
 * `most` were taken at once. The batch tells what is left unanswered.
 */
enum { BATCH_PAYS_FROM = 16 };

static PyObject *
ring_answer_records(PyObject *object, PyObject *const *args, Py_ssize_t number)
{
    Ring *self = (Ring *)object;
    if (number != 5) {
        PyErr_SetString(PyExc_TypeError, "answer_records(batch, answers, most, deadline, clock)");
        return NULL;
    }
    long most = PyLong_AsLong(args[2]);
    long long deadline = PyLong_AsLongLong(args[3]);
    moment moment = {0, 0};
    if (PyErr_Occurred() || !is_own_batch(self, args[0]) || !read_clock(args[4], &moment))
        return NULL;
    Batch *batch = (Batch *)args[0];
    uint32_t limit = most < 1 ? 1 : most < UINT16_MAX ? (uint32_t)most : UINT16_MAX;
    do {
        mark_running(self, batch, batch->done, batch->count - batch->done, moment.now);
        PyObject *answers = PyObject_CallFunctionObjArgs(args[1], args[0], NULL);
        bool given = answers && answers != Py_None, good = !given || push_answers(self, batch, answers);
        Py_XDECREF(answers);
        if (!answers || !good)
            return NULL;
        if (!given || !read_clock(args[4], &moment))
            break;
    } while (moment.now < deadline && batch->count < limit && go_on(self, batch, BATCH_PAYS_FROM, limit));
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/*
 * call_records(batch, method, request, response, deadline, clock) -> the batch, or what the method gave or raised
 *
 * Calls `method` for one record after the other, also for those that come meanwhile, until all are answered, the
 * driver wants an interrupt, the deadline is over, or something is not as usual: an exception, or an answer of another
 * type; the unusual record is the next in the batch. Answers are given back some at a time, so that a driver that
 * looks can go on meanwhile; interrupts are the caller's.
 */
enum { AT_ONCE = 32, SINGLY = 128 };

static PyObject *
ring_call_records(PyObject *object, PyObject *const *args, Py_ssize_t arguments)
{
    Ring *self = (Ring *)object;
    const state *state = self->state;
    if (arguments != 6 || Py_TYPE(args[2]) != state->codec || Py_TYPE(args[3]) != state->codec) {
        PyErr_SetString(PyExc_TypeError, "call_records(batch, method, request, response, deadline, clock)");
        return NULL;
    }
    if (!is_own_batch(self, args[0]))
        return NULL;
    Batch *batch = (Batch *)args[0];
    PyObject *method = args[1], *clock = args[5], *outcome = NULL, *argument = NULL;
    const Codec *request = (Codec *)args[2], *response = (Codec *)args[3];
    long long deadline = PyLong_AsLongLong(args[4]);
    if (deadline == -1 && PyErr_Occurred())
        return NULL;
    if (request->nbytes != batch->request_size || response->nbytes != batch->response_size) {
        PyErr_SetString(PyExc_ValueError, "the batch has records of other sizes");
        return NULL;
    }
    if (!reserve(&batch->stores[ANSWERS], response->nbytes))
        return PyErr_NoMemory();
    uint8_t *answer = batch->stores[ANSWERS].at;
    uint32_t answered = 0; /* and not given back yet */
    moment moment = {0, 0};
    if (!read_clock(clock, &moment))
        return NULL;
    while (batch->done + answered < batch->count) {
        uint32_t index = batch->done + answered;
        mark_running(self, batch, index, 1, moment.now); /* or up to a turn later: patience is longer */
        argument = unpack(state, request, batch->requests + (size_t)index * request->nbytes, argument);
        PyObject *result = argument ? PyObject_CallFunctionObjArgs(method, argument, NULL) : NULL;
        if (!result) {
            outcome = take_exception();
            break;
        }
        if (!pack(response, result, answer)) {
            outcome = result;
            break;
        }
        Py_DECREF(result);
        answer_record(batch, index, answer);
        bool last = index + 1 == batch->count;
        if (++answered == AT_ONCE || last) {
            give_records_back(self, batch, answered);
            answered = 0;
        }
        if (!surely_before(&moment, deadline) && (!read_clock(clock, &moment) || moment.now >= deadline))
            break;
        if (last && !go_on(self, batch, 1, SINGLY))
            break;
    }
    PyObject *type = NULL, *value = NULL, *trace = NULL;
    PyErr_Fetch(&type, &value, &trace);
    Py_XDECREF(argument);
    if (answered)
        give_records_back(self, batch, answered);
    in_order();
    /* Where this process ends, the request that ended it shall be known. */
    set_number(self, N_RUNNING_NUMBER, type ? 1 : 0);
    PyErr_Restore(type, value, trace);
    if (PyErr_Occurred())
        return NULL;
    return outcome ? outcome : Py_NewRef(args[0]);
}

/* ------------------------------------------------------------------ notifications, and what Python may ask */

static PyObject *
ring_call_wanted(PyObject *object, PyObject *Py_UNUSED(_))
{
    Ring *self = (Ring *)object;
    bool wanted = call_wanted(self);
    self->called_at = self->used_index;
    return PyBool_FromLong(wanted);
}

static PyObject *
ring_suppress_kicks(PyObject *object, PyObject *Py_UNUSED(_))
{
    Ring *self = (Ring *)object;
    if (!self->event_idx)
        store16(self->used, NO_NOTIFY);
    Py_RETURN_NONE;
}

static PyObject *
ring_allow_kicks(PyObject *object, PyObject *Py_UNUSED(_))
{
    Ring *self = (Ring *)object;
    if (self->event_idx)
        store16(self->used + 4 + 8 * (size_t)self->size, self->next);
    else
        store16(self->used, 0);
    full_fence(); /* the wish must be out before the last look */
    return PyBool_FromLong(acquire16(self->available + 2) != self->next);
}

static PyObject *ring_backlog(PyObject *object, PyObject *Py_UNUSED(_)) { return PyLong_FromLong((uint16_t)(acquire16(((Ring *)object)->available + 2) - ((Ring *)object)->next)); }

static PyObject *
ring_get_twice(PyObject *object, void *Py_UNUSED(_))
{
    int32_t head = ((Ring *)object)->twice;
    if (head < 0)
        Py_RETURN_NONE;
    return PyLong_FromLong(head);
}

static PyObject *ring_get_closed(PyObject *object, void *Py_UNUSED(_)) { return PyBool_FromLong(((Ring *)object)->closed); }

static int
ring_set_closed(PyObject *object, PyObject *value, void *Py_UNUSED(_))
{
    int closed = value ? PyObject_IsTrue(value) : -1;
    if (closed < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "True or False");
        return -1;
    }
    ((Ring *)object)->closed = closed;
    if (!closed)
        ((Ring *)object)->twice = -1;
    return 0;
}

/* indexes: (next_available, used_index, called_at, in_flight, order), for the reference engine's turns */
static PyObject *
ring_get_indexes(PyObject *object, void *Py_UNUSED(_))
{
    const Ring *self = (Ring *)object;
    return Py_BuildValue("(IIIIK)", (unsigned)self->next, (unsigned)self->used_index, (unsigned)self->called_at,
                         (unsigned)self->in_flight, (unsigned long long)self->order);
}

static int
ring_set_indexes(PyObject *object, PyObject *value, void *Py_UNUSED(_))
{
    Ring *self = (Ring *)object;
    unsigned next, used, called, in_flight;
    unsigned long long order;
    if (!value || !PyTuple_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "five numbers");
        return -1;
    }
    if (!PyArg_ParseTuple(value, "IIIIK", &next, &used, &called, &in_flight, &order))
        return -1;
    if ((next | used | called) > 0xFFFF || in_flight > self->size) {
        PyErr_SetString(PyExc_ValueError, "indexes have 16 bits, and no more is in flight than the queue holds");
        return -1;
    }
    self->next = (uint16_t)next;
    self->used_index = (uint16_t)used;
    self->called_at = (uint16_t)called;
    self->in_flight = in_flight;
    self->order = order;
    return 0;
}

static PyObject *ring_get_memory(PyObject *object, void *Py_UNUSED(_)) { return Py_NewRef((PyObject *)((Ring *)object)->memory); }

/* A new table. The old one lives as long as a chain or a batch that was translated with it. */
static int
ring_set_memory(PyObject *object, PyObject *value, void *Py_UNUSED(_))
{
    Ring *self = (Ring *)object;
    if (!value || Py_TYPE(value) != self->state->memory) {
        PyErr_SetString(PyExc_TypeError, "a Memory");
        return -1;
    }
    Memory *old = self->memory;
    Py_INCREF(value);
    self->memory = (Memory *)value;
    Py_DECREF((PyObject *)old);
    return 0;
}

static PyMethodDef ring_methods[] = {
    {"pop", ring_pop, METH_O, NULL},
    {"push", ring_push, METH_O, NULL},
    {"pop_records", (PyCFunction)(void (*)(void))ring_pop_records, METH_FASTCALL, NULL},
    {"push_records", (PyCFunction)(void (*)(void))ring_push_records, METH_FASTCALL, NULL},
    {"call_records", (PyCFunction)(void (*)(void))ring_call_records, METH_FASTCALL, NULL},
    {"answer_records", (PyCFunction)(void (*)(void))ring_answer_records, METH_FASTCALL, NULL},
    {"call_wanted", ring_call_wanted, METH_NOARGS, NULL},
    {"suppress_kicks", ring_suppress_kicks, METH_NOARGS, NULL},
    {"allow_kicks", ring_allow_kicks, METH_NOARGS, NULL},
    {"backlog", ring_backlog, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef ring_getset[] = {
    {"closed", ring_get_closed, ring_set_closed, NULL, NULL},
    {"memory", ring_get_memory, ring_set_memory, NULL, NULL},
    {"twice", ring_get_twice, NULL, NULL, NULL},
    {"indexes", ring_get_indexes, ring_set_indexes, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot ring_slots[] = {
    {Py_tp_doc, (void *)"The device's end of a split virtqueue."},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {Py_tp_getset, ring_getset},
    {0, NULL},
};
static PyType_Spec ring_spec = {"pyvirtio.ring._accel.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT, ring_slots};

/* ------------------------------------------------------------------ the module */

static PyObject *
module_full_fence(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(_))
{
    full_fence();
    Py_RETURN_NONE;
}

static int
hashes_as(PyObject *tuple, long item)
{
    PyObject *plain = Py_BuildValue("(l)", item);
    Py_hash_t hash = plain ? PyObject_Hash(plain) : -1, other = plain ? PyObject_Hash(tuple) : -1;
    Py_XDECREF(plain);
    return PyErr_Occurred() ? -1 : hash == other;
}

/*
 * Whether an instance of a tuple's subclass that is filled in place is as good as one that tuple.__new__ made, and
 * whether it may be filled again. A Python that keeps more in a tuple than its items shows it in the hash.
 */
static int
probe_tuples(state *state)
{
    PyObject *kind = PyObject_CallFunction((PyObject *)&PyType_Type, "s(O){s()}", "Probe", (PyObject *)&PyTuple_Type,
                                           "__slots__");
    if (!kind)
        return -1;
    int first = -1, second = -1;
    PyObject *made = ((allocfunc)PyType_GetSlot((PyTypeObject *)kind, Py_tp_alloc))((PyTypeObject *)kind, 1);
    if (made && PyTuple_SetItem(made, 0, PyLong_FromLong(1)) == 0)
        first = hashes_as(made, 1);
    if (first >= 0 && PyTuple_SetItem(made, 0, PyLong_FromLong(2)) == 0)
        second = hashes_as(made, 2);
    state->plain_tuples = first == 1 && PyObject_Size(made) == 1;
    state->reusable_tuples = state->plain_tuples && second == 1;
    Py_DECREF(kind);
    Py_XDECREF(made);
    return second < 0 ? -1 : 0;
}

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **place)
{
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *place ? PyModule_AddType(module, *place) : -1;
}

static int
module_exec(PyObject *module)
{
    state *state = PyModule_GetState(module);
    PyObject *errors = PyImport_ImportModule("pyvirtio.errors");
    if (!errors)
        return -1;
    state->chain_error = PyObject_GetAttrString(errors, "ChainError");
    if (PyModule_AddIntConstant(module, "BATCH_PAYS_FROM", BATCH_PAYS_FROM) < 0)
        return -1;
    Py_DECREF(errors);
    if (!state->chain_error || add_type(module, &memory_spec, &state->memory) < 0
        || add_type(module, &ring_spec, &state->ring) < 0 || add_type(module, &chain_spec, &state->chain) < 0
        || add_type(module, &batch_spec, &state->batch) < 0 || add_type(module, &codec_spec, &state->codec) < 0)
        return -1;
    return probe_tuples(state);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    const state *state = PyModule_GetState(module);
    Py_VISIT((PyObject *)state->memory);
    Py_VISIT((PyObject *)state->ring);
    Py_VISIT((PyObject *)state->chain);
    Py_VISIT((PyObject *)state->batch);
    Py_VISIT((PyObject *)state->codec);
    Py_VISIT(state->chain_error);
    return 0;
}

static int
module_clear(PyObject *module)
{
    state *state = PyModule_GetState(module);
    Py_CLEAR(state->memory);
    Py_CLEAR(state->ring);
    Py_CLEAR(state->chain);
    Py_CLEAR(state->batch);
    Py_CLEAR(state->codec);
    Py_CLEAR(state->chain_error);
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

static PyMethodDef module_methods[] = {
    {"full_fence", module_full_fence, METH_NOARGS, "Order every load and store before this call before every one after it."},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_accel",
    .m_doc = "The ring's device side in C; see _accel.c.",
    .m_size = sizeof(state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__accel(void)
{
    return PyModuleDef_Init(&module_definition);
}
