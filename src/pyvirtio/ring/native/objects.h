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
    PyTypeObject *memory, *ring, *chain, *batch, *codec, *reader, *writer;
    PyObject *chain_error, *local_error;
    PyObject *over; /* what the reader and the writer of a request say once it is over */
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
    uint32_t transfers; /* system calls that are under way in other threads */
} Stream;

enum { PART_TABLE, PART_AVAILABLE, PART_USED, PART_REGION, PART_LEDGER, PARTS_OF_A_RING };

typedef struct {
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
} Ring;

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
