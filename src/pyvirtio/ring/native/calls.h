/* Calling what answers: a method for each record, or one for a whole batch. */

/* A time, and the processor's own count of cycles when it was read. */
typedef struct {
    int64_t now;
    uint64_t cycles;
} moment;

static inline uint64_t
count_cycles(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

/*
 * Whether the deadline cannot be over yet, for the clock takes as long as a good part of a request. No processor
 * counts slower than 2 ns a cycle; a count that goes backwards, on another processor, looks like a long time.
 */
static inline bool
surely_before(const moment *moment, int64_t deadline)
{
    uint64_t cycles = count_cycles() - moment->cycles;
    return moment->cycles && cycles < INT32_MAX && moment->now + 2 * (int64_t)cycles < deadline;
}

/* The nanoseconds of the service's clock; `clock` is None for the system's own, monotonic_ns. */
static inline bool
read_clock(PyObject *clock, moment *moment)
{
    if (clock == Py_None) {
        struct timespec time;
        moment->cycles = count_cycles();
        clock_gettime(CLOCK_MONOTONIC, &time);
        moment->now = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
        return true;
    }
    PyObject *number = PyObject_CallNoArgs(clock);
    moment->now = number ? PyLong_AsLongLong(number) : 0;
    Py_XDECREF(number);
    return !PyErr_Occurred();
}

/* Takes the exception that is set, if it is one that a device's author may cause (Exception). */
static PyObject *
take_exception(void)
{
    PyObject *type, *value, *trace;
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return NULL;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace)
        PyException_SetTraceback(value, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
}

static inline void
relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/*
 * Takes more records into a batch that is answered, if at least `fewest` wait and the caller has nothing to do before:
 * the driver wants no interrupt, and nobody still looks at the requests that were in there.
 *
 * A driver that wants no interrupt looks at the used ring itself, and submits again within a microsecond or two. To
 * go back to Python takes longer, so it is awaited for so long.
 */
enum { LOOKS = 32 };

static bool
go_on(Ring *self, Batch *batch, uint32_t fewest, uint32_t most)
{
    if (batch->done < batch->count || batch->exports || needs_interrupt(self))
        return false;
    self->called_at = self->used_index;
    for (int i = 0; i < LOOKS && pending(self) >= 0 && pending(self) < (int32_t)fewest; i++)
        relax();
    return pending(self) >= (int32_t)fewest && fill_batch(self, batch, most);
}

/* Journal.running: so that a death inside the method falls on these requests and no other. */
static inline void
mark_running(Ring *self, const Batch *batch, uint32_t index, uint32_t n, int64_t since)
{
    set_number(self, N_RUNNING_FROM, batch->first_order + index);
    set_number(self, N_RUNNING_SINCE, (uint64_t)since);
    in_order();
    set_number(self, N_RUNNING_NUMBER, n);
    in_order();
}

/*
 * answer_records(batch, answers, most, deadline, clock): while `answers` gives a buffer, and not None
 *
 * Has `answers` answer a batch as a whole, and then whatever else waits, until the deadline is over, few are left or
 * `most` were taken at once. The batch tells what is left unanswered.
 */
enum { BATCH_PAYS_FROM = 16 };

static PyObject *
ring_answer_records(PyObject *object, PyObject *const *args, Py_ssize_t number)
{
    Ring *self = (Ring *)object;
    if (number != 5) {
        PyErr_SetString(PyExc_TypeError, "answer_records(batch, answers, most, deadline, clock)");
        return NULL;
    }
    long most = PyLong_AsLong(args[2]);
    long long deadline = PyLong_AsLongLong(args[3]);
    moment moment = {0, 0};
    if (PyErr_Occurred() || !is_own_batch(self, args[0]) || !read_clock(args[4], &moment))
        return NULL;
    Batch *batch = (Batch *)args[0];
    uint32_t limit = most < 1 ? 1 : most < UINT16_MAX ? (uint32_t)most : UINT16_MAX;
    do {
        mark_running(self, batch, batch->done, batch->count - batch->done, moment.now);
        PyObject *answers = PyObject_CallFunctionObjArgs(args[1], args[0], NULL);
        bool given = answers && answers != Py_None, good = !given || push_answers(self, batch, answers);
        Py_XDECREF(answers);
        if (!answers || !good)
            return NULL;
        if (!given || !read_clock(args[4], &moment))
            break;
    } while (moment.now < deadline && batch->count < limit && go_on(self, batch, BATCH_PAYS_FROM, limit));
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/*
 * call_records(batch, method, request, response, deadline, clock) -> the batch, or what the method gave or raised
 *
 * Calls `method` for one record after the other, also for those that come meanwhile, until all are answered, the
 * driver wants an interrupt, the deadline is over, or something is not as usual: an exception, or an answer of another
 * type; the unusual record is the next in the batch. Answers are given back some at a time, so that a driver that
 * looks can go on meanwhile; interrupts are the caller's.
 */
enum { AT_ONCE = 32, SINGLY = 128 };

static PyObject *
ring_call_records(PyObject *object, PyObject *const *args, Py_ssize_t arguments)
{
    Ring *self = (Ring *)object;
    const state *state = self->state;
    if (arguments != 6 || Py_TYPE(args[2]) != state->codec || Py_TYPE(args[3]) != state->codec) {
        PyErr_SetString(PyExc_TypeError, "call_records(batch, method, request, response, deadline, clock)");
        return NULL;
    }
    if (!is_own_batch(self, args[0]))
        return NULL;
    Batch *batch = (Batch *)args[0];
    PyObject *method = args[1], *clock = args[5], *outcome = NULL, *argument = NULL;
    const Codec *request = (Codec *)args[2], *response = (Codec *)args[3];
    long long deadline = PyLong_AsLongLong(args[4]);
    if (deadline == -1 && PyErr_Occurred())
        return NULL;
    if (request->nbytes != batch->request_size || response->nbytes != batch->response_size) {
        PyErr_SetString(PyExc_ValueError, "the batch has records of other sizes");
        return NULL;
    }
    if (!reserve(&batch->stores[ANSWERS], response->nbytes))
        return PyErr_NoMemory();
    uint8_t *answer = batch->stores[ANSWERS].at;
    uint32_t answered = 0; /* and not given back yet */
    moment moment = {0, 0};
    if (!read_clock(clock, &moment))
        return NULL;
    while (batch->done + answered < batch->count) {
        uint32_t index = batch->done + answered;
        mark_running(self, batch, index, 1, moment.now); /* or up to a turn later: patience is longer */
        argument = unpack(state, request, batch->requests + (size_t)index * request->nbytes, argument);
        PyObject *result = argument ? PyObject_CallFunctionObjArgs(method, argument, NULL) : NULL;
        if (!result) {
            outcome = take_exception();
            break;
        }
        if (!pack(response, result, answer)) {
            outcome = result;
            break;
        }
        Py_DECREF(result);
        answer_record(batch, index, answer);
        bool last = index + 1 == batch->count;
        if (++answered == AT_ONCE || last) {
            give_records_back(self, batch, answered);
            answered = 0;
        }
        if (!surely_before(&moment, deadline) && (!read_clock(clock, &moment) || moment.now >= deadline))
            break;
        if (last && !go_on(self, batch, 1, SINGLY))
            break;
    }
    PyObject *type = NULL, *value = NULL, *trace = NULL;
    PyErr_Fetch(&type, &value, &trace);
    Py_XDECREF(argument);
    if (answered)
        give_records_back(self, batch, answered);
    in_order();
    /* Where this process ends, the request that ended it shall be known. */
    set_number(self, N_RUNNING_NUMBER, type ? 1 : 0);
    PyErr_Restore(type, value, trace);
    if (PyErr_Occurred())
        return NULL;
    return outcome ? outcome : Py_NewRef(args[0]);
}
