/* A chain as Python sees it. */

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
    "pyvirtio.ring._native.Chain", offsetof(Chain, piece_), sizeof(piece),
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, chain_slots,
};
