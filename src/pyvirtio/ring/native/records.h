/* Requests of one shape: pop and push of batches. */

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
    batch->count = batch->done = 0;
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
    add_used(self, n, true, batch->response_size);
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
    "pyvirtio.ring._native.Batch", sizeof(Batch), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    batch_slots,
};
