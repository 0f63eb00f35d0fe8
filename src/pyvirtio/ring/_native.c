/*
 * The ring's device side in C: what the reference engine (split_device.py) does, for the cases that it accepts.
 *
 * Nothing here decides what is wrong with a ring. Whatever is not plainly right - a bad index, a forbidden flag, an
 * address outside memory, a head that is in flight - is "odd": it is left where it is, untouched, and the reference
 * engine looks at it afresh and says which rule it breaks. So there is one place for errors, and this code only has
 * to be sure that what it accepts, the reference engine accepts too.
 *
 * The guest is hostile. Every shared byte that is checked is loaded once, into a local or into private memory; the
 * copy is checked and the copy is used. Indexes that the device wrote are never read back. Every buffer is held
 * (Py_buffer) for as long as anything here can point into it: a chain holds the memory table that it was translated
 * with, also when the ring has long been given another.
 *
 * A process that runs this may be killed at any instruction, and the next one goes on from the journal. So the steps
 * of journal.py keep their order: `in_order()` between two steps stops the compiler from exchanging them, which is
 * all it takes, for a dead process has no stores under way.
 *
 * The parts are one translation unit, so that the compiler sees through all of them. Each uses those before it.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "native/access.h"
#include "native/types.h"
#include "native/memory.h"
#include "native/chain.h"
#include "native/follow.h"
#include "native/journal.h"
#include "native/ring.h"
#include "native/records.h"
#include "native/codec.h"
#include "native/calls.h"
#include "native/notifications.h"

static PyObject *
module_full_fence(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(_))
{
    full_fence();
    Py_RETURN_NONE;
}

static int
hashes_as(PyObject *tuple, long item)
{
    PyObject *plain = Py_BuildValue("(l)", item);
    Py_hash_t hash = plain ? PyObject_Hash(plain) : -1, other = plain ? PyObject_Hash(tuple) : -1;
    Py_XDECREF(plain);
    return PyErr_Occurred() ? -1 : hash == other;
}

/*
 * Whether an instance of a tuple's subclass that is filled in place is as good as one that tuple.__new__ made, and
 * whether it may be filled again. A Python that keeps more in a tuple than its items shows it in the hash.
 */
static int
probe_tuples(state *state)
{
    PyObject *kind = PyObject_CallFunction((PyObject *)&PyType_Type, "s(O){s()}", "Probe", (PyObject *)&PyTuple_Type,
                                           "__slots__");
    if (!kind)
        return -1;
    int first = -1, second = -1;
    PyObject *made = ((allocfunc)PyType_GetSlot((PyTypeObject *)kind, Py_tp_alloc))((PyTypeObject *)kind, 1);
    if (made && PyTuple_SetItem(made, 0, PyLong_FromLong(1)) == 0)
        first = hashes_as(made, 1);
    if (first >= 0 && PyTuple_SetItem(made, 0, PyLong_FromLong(2)) == 0)
        second = hashes_as(made, 2);
    state->plain_tuples = first == 1 && PyObject_Size(made) == 1;
    state->reusable_tuples = state->plain_tuples && second == 1;
    Py_DECREF(kind);
    Py_XDECREF(made);
    return second < 0 ? -1 : 0;
}

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **place)
{
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *place ? PyModule_AddType(module, *place) : -1;
}

static int
module_exec(PyObject *module)
{
    state *state = PyModule_GetState(module);
    PyObject *errors = PyImport_ImportModule("pyvirtio.errors");
    if (!errors)
        return -1;
    state->chain_error = PyObject_GetAttrString(errors, "ChainError");
    if (PyModule_AddIntConstant(module, "BATCH_PAYS_FROM", BATCH_PAYS_FROM) < 0)
        return -1;
    Py_DECREF(errors);
    if (!state->chain_error || add_type(module, &memory_spec, &state->memory) < 0
        || add_type(module, &ring_spec, &state->ring) < 0 || add_type(module, &chain_spec, &state->chain) < 0
        || add_type(module, &batch_spec, &state->batch) < 0 || add_type(module, &codec_spec, &state->codec) < 0)
        return -1;
    return probe_tuples(state);
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
    Py_VISIT(state->chain_error);
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
    Py_CLEAR(state->chain_error);
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

static PyMethodDef module_methods[] = {
    {"full_fence", module_full_fence, METH_NOARGS, "Order every load and store before this call before every one after it."},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The ring's device side in C; see _native.c.",
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
