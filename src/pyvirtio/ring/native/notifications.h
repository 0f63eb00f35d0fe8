/* Notifications, and what Python may ask of a ring. */

static PyObject *
ring_call_wanted(PyObject *object, PyObject *Py_UNUSED(_))
{
    Ring *self = (Ring *)object;
    bool wanted = needs_interrupt(self);
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
    {"needs_interrupt", ring_call_wanted, METH_NOARGS, NULL},
    {"disable_kicks", ring_suppress_kicks, METH_NOARGS, NULL},
    {"enable_kicks", ring_allow_kicks, METH_NOARGS, NULL},
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
static PyType_Spec ring_spec = {"pyvirtio.ring._native.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT, ring_slots};
