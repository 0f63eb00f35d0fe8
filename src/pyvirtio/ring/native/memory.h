/* Guest memory: which region holds an address. */

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
static PyType_Spec memory_spec = {"pyvirtio.ring._native.Memory", sizeof(Memory), 0, Py_TPFLAGS_DEFAULT, memory_slots};
