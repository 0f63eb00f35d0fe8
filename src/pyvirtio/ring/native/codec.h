/* Structures: from bytes to tuples, and back. */

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
    "pyvirtio.ring._native.Codec", offsetof(Codec, fields), sizeof(field), Py_TPFLAGS_DEFAULT, codec_slots,
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
