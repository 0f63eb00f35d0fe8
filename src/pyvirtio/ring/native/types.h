/* The objects, and what they are made of. */

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
