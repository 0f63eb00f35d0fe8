/*
 * The ring's device side in C: what the reference engine (split_device.py, split_records.py) does, for what is
 * well-formed.
 *
 * Nothing here decides what is wrong with a ring. Whatever is not plainly well-formed - a bad index, a forbidden flag,
 * an address outside memory, a head that is in flight - is left where it is, untouched, and the reference engine looks
 * at it and says which rule it breaks. So errors are decided in one place, and this code may accept less than the
 * reference engine, never more.
 *
 * The guest is hostile. Every shared byte that is checked is loaded once, into a local or into private memory; the
 * copy is checked and the copy is used. Indexes that the device wrote are never read back. Every buffer is held
 * (Py_buffer) for as long as anything here can point into it: a chain holds the memory table that it was translated
 * with, also when the ring has long been given another.
 *
 * A process that runs this may be killed at any instruction, and the next one goes on from the journal. So the steps
 * of journal.py keep their order.
 *
 * native/core.h is the part that knows no Python. Everything is one translation unit, so that the compiler sees
 * through all of it; each part includes what it needs. All state is a ring's, and the interpreter lock guards it.
 */

#include "native/batch_object.c.inc"
#include "native/chain_object.c.inc"
#include "native/codec_object.c.inc"
#include "native/known_codecs.c.inc"
#include "native/memory_object.c.inc"
#include "native/objects.h"
#include "native/reader_object.c.inc"
#include "native/record_calls.c.inc"
#include "native/ring_object.c.inc"
#include "native/stream_calls.c.inc"
#include "native/writer_object.c.inc"

#ifndef SOURCE_DIGEST /* what build_native.py tells this source by */
#define SOURCE_DIGEST "unknown"
#endif

static PyMethodDef ring_methods[] = {
    {"pop", ring_pop, METH_O, NULL},
    {"unpop", ring_unpop, METH_O, NULL},
    {"push", ring_push, METH_O, NULL},
    {"pop_records", FAST(ring_pop_records), METH_FASTCALL, NULL},
    {"push_records", FAST(ring_push_records), METH_FASTCALL, NULL},
    {"call_records", FAST(ring_call_records), METH_FASTCALL, NULL},
    {"answer_records", FAST(ring_answer_records), METH_FASTCALL, NULL},
    {"call_streams", FAST(ring_call_streams), METH_FASTCALL, NULL},
    {"needs_interrupt", ring_needs_interrupt, METH_NOARGS, NULL},
    {"disable_kicks", ring_disable_kicks, METH_NOARGS, NULL},
    {"enable_kicks", ring_enable_kicks, METH_NOARGS, NULL},
    {"has_more", ring_has_more, METH_NOARGS, NULL},
    {"backlog", ring_backlog, METH_NOARGS, NULL},
    {"relocate", FAST(ring_relocate), METH_FASTCALL, NULL},
    {"set_state", ring_set_state, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef ring_getset[] = {
    {"position", ring_get_position, NULL, NULL, NULL},
    {"duplicate", ring_get_duplicate, NULL, NULL, NULL},
    {"state", ring_get_state, NULL, NULL, NULL},
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
static PyType_Spec ring_spec = {
    .name = "pyvirtio.ring._native.Ring",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = ring_slots,
};

static PyObject *
module_full_fence(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(_))
{
    full_fence();
    Py_RETURN_NONE;
}

#ifdef RING_STORE_HOOK
/* allow_stores(number): this process, dead or not, lives until it has made this many stores, all of them counted */
static PyObject *
module_allow_stores(PyObject *Py_UNUSED(module), PyObject *number)
{
    uint64_t allowed = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    stores_allowed = allowed;
    is_dead = false;
    Py_RETURN_NONE;
}

/* count_store() -> whether a store that Python is about to make still reaches memory */
static PyObject *
module_count_store(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(_))
{
    return PyBool_FromLong(may_store());
}

static PyObject *
module_stores(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(_))
{
    return PyLong_FromUnsignedLongLong(stores_made);
}

static PyObject *
module_is_dead(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(_))
{
    return PyBool_FromLong(is_dead);
}
#endif

static PyMethodDef module_methods[] = {
    {"full_fence", module_full_fence, METH_NOARGS, "Order every load and store before this call before those after it."},
#ifdef RING_STORE_HOOK
    {"allow_stores", module_allow_stores, METH_O, NULL},
    {"count_store", module_count_store, METH_NOARGS, NULL},
    {"stores", module_stores, METH_NOARGS, NULL},
    {"is_dead", module_is_dead, METH_NOARGS, NULL},
#endif
    {NULL, NULL, 0, NULL},
};

static PyObject *
attribute_of(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return found;
}

static bool
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **place)
{
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *place && PyModule_AddType(module, *place) == 0;
}

static int
module_exec(PyObject *module)
{
    state *state = PyModule_GetState(module);
    state->chain_error = attribute_of("pyvirtio.errors", "ChainError");
    state->local_error = attribute_of("pyvirtio.errors", "LocalError");
    state->over = attribute_of("pyvirtio.ring.chain", "OVER");
    if (!state->chain_error || !state->local_error || !state->over)
        return -1;
    bool added = add_type(module, &memory_spec, &state->memory) && add_type(module, &ring_spec, &state->ring)
                 && add_type(module, &chain_spec, &state->chain) && add_type(module, &batch_spec, &state->batch)
                 && add_type(module, &codec_spec, &state->codec) && add_type(module, &reader_spec, &state->reader)
                 && add_type(module, &writer_spec, &state->writer);
    return added ? PyModule_AddIntConstant(module, "BATCH_PAYS_FROM", BATCH_PAYS_FROM) : -1;
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
    Py_VISIT((PyObject *)state->reader);
    Py_VISIT((PyObject *)state->writer);
    Py_VISIT(state->chain_error);
    Py_VISIT(state->local_error);
    for (size_t i = 0; i < MOST_KNOWN; i++) {
        Py_VISIT(state->known[i].kind);
        Py_VISIT(state->known[i].codec);
    }
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
    Py_CLEAR(state->reader);
    Py_CLEAR(state->writer);
    Py_CLEAR(state->chain_error);
    Py_CLEAR(state->local_error);
    Py_CLEAR(state->over);
    forget_codecs(state);
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The ring's device side in C; see _native.c. Source: " SOURCE_DIGEST,
    .m_size = sizeof(state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&module_definition);
}
