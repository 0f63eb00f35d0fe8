/* The ring itself: pop and push of chains. */

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
    add_used(self, (uint32_t)number, false, 0);
    Py_RETURN_NONE;
}
