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
#include "native/coroutine_calls.c.inc"
#include "native/file_object.c.inc"
#include "native/known_codecs.c.inc"
#include "native/memory_object.c.inc"
#include "native/objects.h"
#include "native/operation_object.c.inc"
#include "native/parked.c.inc"
#include "native/reader_object.c.inc"
#include "native/record_calls.c.inc"
#include "native/ring_object.c.inc"
#include "native/stream_calls.c.inc"
#include "native/uring_object.c.inc"
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
    {"step_streams", FAST(ring_step_streams), METH_FASTCALL, NULL},
    {"parked", ring_parked, METH_NOARGS, NULL},
    {"parked_count", ring_parked_count, METH_NOARGS, NULL},
    {"has_ready", ring_has_ready, METH_NOARGS, NULL},
    {"set_on_ready", ring_set_on_ready, METH_O, NULL},
    {"cancel_parked", ring_cancel_parked, METH_O, NULL},
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

enum { INTERFACE = 1 }; /* what engine.py expects of this library: change both, in one step */
enum { HELD = 17 }; /* objects of the module's state, but for the codecs */

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
    state->coroutine = (PyTypeObject *)attribute_of("types", "CoroutineType");
    if (!state->chain_error || !state->local_error || !state->over || !state->coroutine)
        return -1;
    struct {
        PyType_Spec *spec;
        PyTypeObject **place;
    } types[] = {
        {&memory_spec, &state->memory}, {&ring_spec, &state->ring},           {&chain_spec, &state->chain},
        {&batch_spec, &state->batch},   {&codec_spec, &state->codec},         {&reader_spec, &state->reader},
        {&writer_spec, &state->writer}, {&operation_spec, &state->operation}, {&uring_spec, &state->uring},
        {&file_spec, &state->file},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!add_type(module, types[i].spec, types[i].place))
            return -1;
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) == 0
               ? PyModule_AddIntConstant(module, "BATCH_PAYS_FROM", BATCH_PAYS_FROM)
               : -1;
}

/* What the state holds, but for the codecs. */
static void
list_held(state *state, PyObject **held[HELD])
{
    PyObject **all[HELD] = {
        (PyObject **)&state->memory,    (PyObject **)&state->ring,   (PyObject **)&state->chain,
        (PyObject **)&state->batch,     (PyObject **)&state->codec,  (PyObject **)&state->reader,
        (PyObject **)&state->writer,    (PyObject **)&state->operation, (PyObject **)&state->uring,
        (PyObject **)&state->file,      (PyObject **)&state->coroutine, &state->chain_error,
        &state->local_error,            &state->over,                &state->running_loop,
        &state->cancelled_error,        &state->weak_references,
    };
    memcpy(held, all, sizeof all);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    state *state = PyModule_GetState(module);
    PyObject **held[HELD];
    list_held(state, held);
    for (int i = 0; i < HELD; i++)
        Py_VISIT(*held[i]);
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
    PyObject **held[HELD];
    list_held(state, held);
    for (int i = 0; i < HELD; i++)
        Py_CLEAR(*held[i]);
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
