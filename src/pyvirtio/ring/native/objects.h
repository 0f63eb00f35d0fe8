/* What Python sees of the core: the types, and what each of their objects holds. */
#ifndef PYVIRTIO_RING_OBJECTS_H
#define PYVIRTIO_RING_OBJECTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core.h"

/* A class, and the codec of its structures; NULL where C cannot deal with them. */
typedef struct {
    PyObject *kind, *codec;
} known_codec;

enum { MOST_KNOWN = 64 };

/* The module's state. */
typedef struct {
    PyTypeObject *memory, *ring, *chain, *batch, *codec, *reader, *writer, *operation, *uring, *file;
    PyTypeObject *coroutine; /* Python's own */
    PyObject *chain_error, *local_error;
    PyObject *over; /* what the reader and the writer of a request say once it is over */
    PyObject *running_loop, *cancelled_error, *weak_references; /* of asyncio and weakref, once they are needed */
    known_codec known[MOST_KNOWN];
    size_t next_known;
} state;

typedef struct {
    PyObject_HEAD
    guest_memory map;
    Py_ssize_t held;    /* regions whose buffer and view are held */
    Py_buffer *buffers; /* all regions stay mapped as long as something points into them */
    PyObject **views;
} Memory;

typedef struct {
    PyObject_VAR_HEAD
    state *state;
    Memory *memory;
    uint64_t sequence, length, room, written;
    uint32_t readable; /* that many pieces are readable, the rest writable */
    uint16_t head;
    piece pieces[];
} Chain;

/* A reader or a writer. */
typedef struct {
    PyObject_HEAD
    state *state;
    Chain *chain;       /* NULL once the request is over */
    stretch rest;       /* what is left to be read, or the room that is left */
    PyObject *lent;     /* a list of the views that were lent, or NULL */
    uint32_t transfers; /* system calls that are under way in other threads, and operations */
} Stream;

typedef struct Operation Operation;
typedef struct Ring Ring;

/* An io_uring, and what the kernel was not told of yet. */
typedef struct {
    PyObject_HEAD
    state *state;
    PyObject *module; /* keeps `state` alive */
    PyObject *loop;   /* whose operations they are, and the thread in which it runs */
    unsigned long thread;
    PyObject *nudge;  /* called when there is something to be flushed */
    uring uring;
    Operation *first, *last;       /* that wait for an entry */
    Operation *unwanted;           /* to be cancelled */
    uint32_t under_way, cancels;   /* operations that the kernel knows of; results of cancels that are still to come */
    bool is_nudged;
} Uring;

/* A request whose coroutine waits for an operation. */
typedef struct parked {
    struct parked *older, *newer, *next_ready;
    Ring *ring;
    Chain *chain;
    Stream *reader, *writer;
    PyObject *work;
    Operation *awaited; /* NULL once it is done */
    int64_t since;
    bool is_cancelled, must_throw;
} parked;

/* A transfer or a sync that can be awaited, by a coroutine that is parked or as asyncio's futures are. */
struct Operation {
    PyObject_VAR_HEAD
    state *state;
    Uring *uring;    /* NULL if it was done at once */
    Operation *next; /* of those that wait for an entry, */
    Operation *next_unwanted; /* or are to be cancelled */
    Stream *stream;  /* NULL for a sync */
    PyObject *memory; /* held for as long as the kernel uses it */
    stretch rest;    /* what is still to be transferred */
    uint64_t before; /* what the stream had left when it began */
    uint64_t done;
    int64_t offset;
    int fd, error; /* an errno */
    uint8_t code;
    bool is_done, is_cancelled, is_under_way, is_awaited;
    PyObject *callbacks; /* a list of pairs of a function and the context for it, or NULL */
    parked *waiter;
    int number;
    struct iovec parts[];
};

typedef struct {
    PyObject_HEAD
    state *state;
    PyObject *module;
    PyObject *find;        /* returns the io_uring of the loop that runs, or None */
    PyObject *slow[3];     /* what else to do to read, write and sync */
    Uring *uring;          /* that `find` returned last, or NULL */
    int fd;
    bool tries[2]; /* whether reading and writing without waiting is worth a try */
} File;

enum { PART_TABLE, PART_AVAILABLE, PART_USED, PART_REGION, PART_LEDGER, PARTS_OF_A_RING };

struct Ring {
    PyObject_HEAD
    state *state;
    PyObject *module; /* keeps `state` alive */
    Memory *memory;
    ring ring;
    Py_buffer parts[PARTS_OF_A_RING];
    int held;
    bool closed;        /* no more records */
    int32_t duplicate;  /* the head that ended a batch, for it was in flight already; or -1 */
    record_batch spare; /* the memory of the last batch, for the next */
    parked *oldest, *newest, *first_ready, *last_ready, *spare_parked;
    uint32_t parked_count;
    PyObject *on_ready; /* called when the first of those that are parked can go on; or NULL */
};

typedef struct {
    PyObject_HEAD
    Memory *memory;
    Ring *ring;
    uint32_t exports; /* who looks at the requests as a buffer */
    bool busy;        /* a method is answering it, and must not get at it in any other way */
    record_batch records;
} Batch;

typedef struct {
    char kind; /* the field's letter in the language of the module struct */
    uint32_t size;
} field;

typedef struct {
    PyObject_VAR_HEAD
    PyTypeObject *type; /* the structure, a subclass of tuple */
    newfunc new_tuple;
    uint32_t nbytes;
    bool is_number;
    field fields[];
} Codec;

/* Frees an object whose type does not take part in garbage collection. */
static void
free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

/* Imports a module and returns something of it. */
static PyObject *
attribute_of(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return found;
}

static bool
has_arguments(Py_ssize_t given, Py_ssize_t wanted, const char *signature)
{
    if (given == wanted)
        return true;
    PyErr_SetString(PyExc_TypeError, signature);
    return false;
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

#endif
