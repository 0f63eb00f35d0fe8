// SPDX-License-Identifier: MIT
/*
 * A vhost-user front-end that keeps a factorial device busy, checks every answer and prints one JSON object.
 *
 * Any back-end that serves the device on a socket will do: a request is a chain of 36 readable bytes (le32 n, 32
 * bytes of text) and 4 writable ones (le32 n! modulo 2^32). There are two ways to do it:
 *
 * - rounds: it submits all requests that may be in flight and sleeps until all are answered; with one in flight, the
 *   time of a round is the latency;
 * - sustained: it polls the ring and submits a new request for each answer as soon as it is there, so that the number
 *   in flight stays the same. It never sleeps and disables interrupts.
 *
 * It must not be what is measured. So all that does not change from round to round is prepared beforehand, a
 * request costs it a few stores, and the clock is read twice a round. But it is not kind to the device's cache:
 * descriptors and the order of requests are shuffled, requests and answers lie in different regions of memory.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER != __LITTLE_ENDIAN
#error "the rings of a modern device are little-endian, and this program does not convert"
#endif

/* VIRTIO 1.4, 2.7: the split virtqueue. */
#define F_NEXT 1
#define F_WRITE 2
#define F_INDIRECT 4
#define NO_NOTIFY 1
#define FEATURE_INDIRECT_DESC (1ull << 28)
#define FEATURE_EVENT_IDX (1ull << 29)
#define FEATURE_VERSION_1 (1ull << 32)

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

struct available {
	uint16_t flags;
	_Atomic uint16_t idx;
	uint16_t ring[]; /* and behind it used_event */
};

struct used_element {
	uint32_t id;
	uint32_t length;
};

struct used {
	_Atomic uint16_t flags;
	_Atomic uint16_t idx;
	struct used_element ring[]; /* and behind it avail_event */
};

/* The vhost-user protocol, as much of it as a front-end for rings needs. */
enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	GET_QUEUE_NUM = 17,
	SET_VRING_ENABLE = 18,
	GET_MAX_MEM_SLOTS = 36,
	ADD_MEM_REG = 37,
};
#define FEATURE_PROTOCOL_FEATURES (1ull << 30)
#define PROTOCOL_MQ (1ull << 0)
#define PROTOCOL_REPLY_ACK (1ull << 3)
#define PROTOCOL_CONFIGURE_MEM_SLOTS (1ull << 15)
#define VERSION 1u
#define NEED_REPLY 8u
#define TABLE_REGIONS 8 /* the most in one SET_MEM_TABLE */

struct header {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
};

struct vring_state {
	uint32_t queue;
	uint32_t num;
};

struct vring_addr {
	uint32_t queue;
	uint32_t flags;
	uint64_t descriptors, used, available, log;
};

struct region_message {
	uint64_t guest, size, user, offset;
};

/* The device. */
#define REQUEST_SIZE 36
#define RESPONSE_SIZE 4
#define POISON 0x5eed1e55u
#define ALL UINT16_MAX
#define BURST 32 /* answers that a sustained run takes before it submits again */
#define VALUES 64 /* a power of two; n from 0 on, and at the end some that are far too large */

static uint32_t values[VALUES], factorials[VALUES];

static struct {
	const char *socket;
	unsigned in_flight, queue_size, regions, queues;
	double seconds;
	uint64_t requests, warm_up, seed;
	bool indirect, event_idx, sustained;
	unsigned timeout;
} options = { .in_flight = 1, .regions = 2, .queues = 1, .seconds = 1, .seed = 1, .event_idx = true, .timeout = 10 };

static void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("frontend: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	exit(1);
}

static void *must(void *memory)
{
	if (!memory)
		die("out of memory");
	return memory;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t random_state;

static uint64_t random_number(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* The numbers 0 to count - 1 in random order. */
static uint32_t *shuffled(uint32_t count)
{
	uint32_t *numbers = must(calloc(count, sizeof(*numbers)));

	for (uint32_t i = 0; i < count; i++) {
		uint32_t j = (uint32_t)(random_number() % (i + 1));

		numbers[i] = numbers[j];
		numbers[j] = i;
	}
	return numbers;
}

/* Memory: one memfd, cut into regions that are neighbours here and 4 GiB apart in guest addresses. */

static struct {
	int fd;
	uint8_t *start;
	size_t region; /* bytes of each */
	size_t *taken; /* bytes of each that are given away */
} memory;

static void make_memory(void)
{
	size_t rings = 32 * (size_t)options.queue_size + 3 * 4096;
	size_t slots = (size_t)options.queues * options.in_flight / options.regions + 2;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	memory.region = (options.queues * rings + slots * 3 * 64 + page - 1) / page * page;
	memory.taken = must(calloc(options.regions, sizeof(*memory.taken)));
	memory.fd = memfd_create("guest-memory", MFD_CLOEXEC);
	if (memory.fd < 0 || ftruncate(memory.fd, (off_t)(memory.region * options.regions)) < 0)
		die("no shared memory: %s", strerror(errno));
	memory.start =
		mmap(NULL, memory.region * options.regions, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
	if (memory.start == MAP_FAILED)
		die("no shared memory: %s", strerror(errno));
}

/* Every piece starts a cache line of its own. */
static void *take(unsigned region, size_t size, size_t align)
{
	size_t start = (memory.taken[region] + align - 1) / align * align;

	if (start + size > memory.region)
		die("the regions were made too small");
	memory.taken[region] = start + (size + 63) / 64 * 64;
	return memory.start + region * memory.region + start;
}

static uint64_t guest_address(const void *pointer)
{
	size_t offset = (size_t)((const uint8_t *)pointer - memory.start);

	return ((uint64_t)(offset / memory.region) << 32) + offset % memory.region;
}

/* Queues. */

struct slot {
	uint32_t *request;
	volatile uint32_t *response;
	uint32_t expected;
	uint16_t head;
	bool in_flight;
};

struct queue {
	struct descriptor *table;
	struct available *available;
	struct used *used;
	struct slot *slots;
	uint32_t *slot_of; /* by head; in_flight where there is none */
	uint32_t *idle;      /* the slots that are not in flight, a ring; those that rest longest are taken first */
	uint64_t taken, given; /* how many were ever taken out of it, and put into it */
	uint32_t missing;    /* how many are in flight */
	uint64_t started;    /* the round */
	uint16_t next, seen; /* available and used index */
	uint16_t kicked_at;  /* the available index when a kick was last thought of */
	int kick, interrupt;
};

static struct queue *queues;

static struct {
	uint64_t requests, rounds, kicks, wakeups;
} counts;

/* The words behind the rings that EVENT_IDX uses (2.7.7.1 and 2.7.10.1). */
static _Atomic uint16_t *used_event(struct queue *queue)
{
	return (_Atomic uint16_t *)&queue->available->ring[options.queue_size];
}

static _Atomic uint16_t *avail_event(struct queue *queue)
{
	return (_Atomic uint16_t *)&queue->used->ring[options.queue_size];
}

static struct descriptor describe(const void *buffer, uint32_t length, uint16_t flags, uint16_t next)
{
	return (struct descriptor){ guest_address(buffer), length, flags, next };
}

static void make_queue(struct queue *queue)
{
	unsigned size = options.queue_size, each = options.indirect ? 1 : 2;
	uint32_t *places = shuffled(size);

	queue->table = take(0, 16 * (size_t)size, 4096);
	queue->available = take(0, 6 + 2 * (size_t)size, 4096);
	queue->used = take(0, 6 + 8 * (size_t)size, 4096);
	queue->slots = must(calloc(options.in_flight, sizeof(*queue->slots)));
	queue->slot_of = must(calloc(size, sizeof(*queue->slot_of)));
	queue->idle = shuffled(options.in_flight);
	queue->given = options.in_flight;
	for (unsigned i = 0; i < size; i++)
		queue->slot_of[i] = options.in_flight;
	for (unsigned i = 0; i < options.in_flight; i++) {
		struct slot *slot = &queue->slots[i];
		uint16_t first = (uint16_t)places[each * i];
		unsigned here = i % options.regions, there = (i + 1) % options.regions;

		slot->head = first;
		slot->request = take(here, REQUEST_SIZE, 64);
		slot->response = take(there, RESPONSE_SIZE, 64);
		strcpy((char *)(slot->request + 1), "hello back end!");
		queue->slot_of[first] = i;
		if (options.indirect) {
			struct descriptor *table = take(here, 2 * sizeof(*table), 64);

			table[0] = describe(slot->request, REQUEST_SIZE, F_NEXT, 1);
			table[1] = describe((const void *)slot->response, RESPONSE_SIZE, F_WRITE, 0);
			queue->table[first] = describe(table, 2 * sizeof(*table), F_INDIRECT, 0);
		} else {
			uint16_t second = (uint16_t)places[each * i + 1];

			queue->table[first] = describe(slot->request, REQUEST_SIZE, F_NEXT, second);
			queue->table[second] = describe((const void *)slot->response, RESPONSE_SIZE, F_WRITE, 0);
		}
	}
	queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	queue->interrupt = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->kick < 0 || queue->interrupt < 0)
		die("no eventfd: %s", strerror(errno));
	free(places);
}

/* Submit all slots that are not in flight. The device looks by itself, or has to be kicked. */
static void submit(struct queue *queue)
{
	uint16_t mask = (uint16_t)(options.queue_size - 1);
	uint32_t place = (uint32_t)(queue->taken % options.in_flight);

	queue->missing += (uint32_t)(queue->given - queue->taken);
	for (; queue->taken != queue->given; queue->taken++) {
		struct slot *slot = &queue->slots[queue->idle[place]];
		unsigned value = random_number() >> 32 & (VALUES - 1);

		if (++place == options.in_flight)
			place = 0;
		*slot->request = values[value];
		*slot->response = POISON;
		slot->expected = factorials[value];
		slot->in_flight = true;
		queue->available->ring[queue->next++ & mask] = slot->head;
	}
	if (options.event_idx && options.sustained) /* far ahead: none is wanted */
		atomic_store_explicit(used_event(queue), (uint16_t)(queue->seen + INT16_MAX), memory_order_relaxed);
	else if (options.event_idx) /* one interrupt, with the last answer */
		atomic_store_explicit(used_event(queue), (uint16_t)(queue->seen + options.in_flight - 1),
				      memory_order_relaxed);
	atomic_store_explicit(&queue->available->idx, queue->next, memory_order_release);
}

/* Kick the device, if it wants that for what was submitted since the last time. */
static void kick(struct queue *queue)
{
	uint16_t old = queue->kicked_at;
	bool wanted;

	queue->kicked_at = queue->next;
	atomic_thread_fence(memory_order_seq_cst);
	if (options.event_idx) {
		uint16_t event = atomic_load_explicit(avail_event(queue), memory_order_relaxed);

		wanted = (uint16_t)(queue->next - event - 1) < (uint16_t)(queue->next - old);
	} else {
		wanted = !(atomic_load_explicit(&queue->used->flags, memory_order_relaxed) & NO_NOTIFY);
	}
	if (!wanted)
		return;
	counts.kicks++;
	if (eventfd_write(queue->kick, 1) < 0 && errno != EAGAIN)
		die("the kick failed: %s", strerror(errno));
}

/* Take the answers that are there, `most` at most, and check each; return whether all are there. */
static bool reap(struct queue *queue, unsigned most)
{
	uint16_t idx = atomic_load_explicit(&queue->used->idx, memory_order_acquire);
	uint32_t place = (uint32_t)(queue->given % options.in_flight);

	if ((uint16_t)(idx - queue->seen) > queue->missing)
		die("the device returned more requests than it was given: used index %u, %u of %u missing", idx,
		    queue->missing, options.in_flight);
	if ((uint16_t)(idx - queue->seen) > most)
		idx = (uint16_t)(queue->seen + most);
	for (; queue->seen != idx; queue->seen++) {
		struct used_element element = queue->used->ring[queue->seen & (options.queue_size - 1)];
		struct slot *slot;

		if (element.id >= options.queue_size || queue->slot_of[element.id] == options.in_flight)
			die("the device returned descriptor %u, which it was never given", element.id);
		slot = &queue->slots[queue->slot_of[element.id]];
		if (!slot->in_flight)
			die("the device returned descriptor %u twice", element.id);
		if (element.length != RESPONSE_SIZE)
			die("an answer of %u bytes; it has to have %u", element.length, RESPONSE_SIZE);
		if (*slot->response != slot->expected)
			die("a wrong answer: %u! mod 2**32 = %u, not %u", *slot->request, slot->expected,
			    *slot->response);
		slot->in_flight = false;
		queue->idle[place] = queue->slot_of[element.id];
		if (++place == options.in_flight)
			place = 0;
		queue->given++;
		queue->missing--;
	}
	return !queue->missing;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Sleep until a device interrupts. It may be spurious: a back-end may send one when it is given the eventfd. */
static void sleep_until_called(struct pollfd *polled)
{
	int ready = poll(polled, options.queues, (int)options.timeout * 1000);
	eventfd_t ignored;

	if (ready < 0 && errno != EINTR)
		die("poll: %s", strerror(errno));
	counts.wakeups++;
	for (unsigned i = 0; i < options.queues; i++) {
		struct queue *queue = &queues[i];

		if (ready > 0 && polled[i].revents)
			eventfd_read(queue->interrupt, &ignored);
		if (ready)
			continue;
		if (queue->missing && reap(queue, ALL))
			die("queue %u: all answers are there, and in %u s no interrupt came for the last", i,
			    options.timeout);
		if (queue->missing)
			die("queue %u: no answer in %u s; %u of %u requests are missing", i, options.timeout,
			    queue->missing, options.in_flight);
	}
}

/* Latencies: the last ones of a long run, in a ring. */
#define KEPT (1u << 20)
static uint32_t *latencies;

static void start_round(struct queue *queue)
{
	queue->started = now();
	submit(queue);
	kick(queue);
}

/* Run rounds on all queues, until the time or the number of requests is reached. */
static uint64_t run_rounds(struct pollfd *polled, double seconds, uint64_t requests)
{
	uint64_t start = now(), end = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : UINT64_MAX, moment = start;
	unsigned running = options.queues;

	for (unsigned i = 0; i < options.queues; i++)
		start_round(&queues[i]);
	while (running) {
		bool progress = false;

		for (unsigned i = 0; i < options.queues; i++) {
			struct queue *queue = &queues[i];

			if (!queue->missing || !reap(queue, ALL))
				continue;
			progress = true;
			moment = now();
			latencies[counts.rounds++ & (KEPT - 1)] =
				(uint32_t)(moment - queue->started > UINT32_MAX ? UINT32_MAX : moment - queue->started);
			counts.requests += options.in_flight;
			if (moment < end && counts.requests < requests)
				start_round(queue);
			else
				running--;
		}
		if (!progress)
			sleep_until_called(polled);
	}
	return moment - start;
}

/* Keep all queues full, until the time or the number of requests is reached, and wait for what is in flight then. */
static uint64_t run_sustained(double seconds, uint64_t requests)
{
	uint64_t start = now(), end = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : UINT64_MAX;
	uint64_t moment = start, progress = start, before;
	unsigned running = options.queues, looks = 0;

	for (unsigned i = 0; i < options.queues; i++)
		submit(&queues[i]);
	while (running) {
		bool more = moment < end && counts.requests < requests;

		before = counts.requests;
		for (unsigned i = 0; i < options.queues; i++) {
			struct queue *queue = &queues[i];
			uint64_t given = queue->given;
			uint16_t waiting;

			if (!queue->missing)
				continue;
			reap(queue, BURST);
			counts.requests += queue->given - given;
			if (more && queue->given != given)
				submit(queue);
			/* A kick takes long, so first all answers that are there; but indexes have 16 bits only. */
			waiting = (uint16_t)(queue->next - queue->kicked_at);
			if (waiting && (queue->given == given || waiting > UINT16_MAX / 2))
				kick(queue);
			if (!queue->missing)
				running--;
		}
		if (!(++looks & 63))
			moment = now();
		if (counts.requests != before) {
			progress = moment;
			continue;
		}
		if (moment - progress > options.timeout * 1000000000ull)
			die("no answer in %u s", options.timeout);
		relax();
	}
	return now() - start;
}

static uint64_t run(struct pollfd *polled, double seconds, uint64_t requests)
{
	memset(&counts, 0, sizeof(counts));
	return options.sustained ? run_sustained(seconds, requests) : run_rounds(polled, seconds, requests);
}

/* Talking to the back-end. */

static int connection;
static bool acknowledged;

static void send_message(uint32_t request, uint32_t flags, const void *payload, size_t size, const int *fds,
			 size_t number)
{
	struct header header = { request, VERSION | flags, (uint32_t)size };
	struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)payload, size } };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(TABLE_REGIONS * sizeof(int))];
	} control = { 0 };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	ssize_t sent;

	if (number) {
		struct cmsghdr *rights;

		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(number * sizeof(int));
		rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(number * sizeof(int));
		memcpy(CMSG_DATA(rights), fds, number * sizeof(int));
	}
	sent = sendmsg(connection, &message, MSG_NOSIGNAL);
	if (sent != (ssize_t)(sizeof(header) + size))
		die("the message %u could not be sent: %s", request, sent < 0 ? strerror(errno) : "cut short");
}

static void receive_exactly(void *buffer, size_t size)
{
	struct pollfd polled = { .fd = connection, .events = POLLIN };

	if (poll(&polled, 1, (int)options.timeout * 1000) == 0)
		die("the back-end does not answer");
	if (size && recv(connection, buffer, size, MSG_WAITALL) != (ssize_t)size)
		die("the back-end closed the connection");
}

static uint64_t receive_number(uint32_t request)
{
	struct header header;
	union {
		uint64_t number;
		struct vring_state state;
	} payload = { 0 };

	receive_exactly(&header, sizeof(header));
	if (header.request != request || header.size != sizeof(payload))
		die("the message %u was answered with message %u of %u bytes", request, header.request, header.size);
	receive_exactly(&payload, sizeof(payload));
	return payload.number;
}

static uint64_t ask(uint32_t request, const void *payload, size_t size)
{
	send_message(request, 0, payload, size, NULL, 0);
	return receive_number(request);
}

static void tell(uint32_t request, const void *payload, size_t size, const int *fds, size_t number)
{
	send_message(request, acknowledged ? NEED_REPLY : 0, payload, size, fds, number);
	if (acknowledged && receive_number(request))
		die("the back-end refused the message %u; look at its log", request);
}

static void connect_to_socket(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(options.socket) >= sizeof(address.sun_path))
		die("the path of the socket is too long");
	strcpy(address.sun_path, options.socket);
	connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("nobody serves %s: %s", options.socket, strerror(errno));
}

static uint64_t negotiate(void)
{
	uint64_t wanted = FEATURE_VERSION_1 | FEATURE_PROTOCOL_FEATURES;
	uint64_t offered = ask(GET_FEATURES, NULL, 0), protocol;

	wanted |= options.indirect ? FEATURE_INDIRECT_DESC : 0;
	if (wanted & ~offered)
		die("the back-end offers the features %#llx; %#llx is missing", (unsigned long long)offered,
		    (unsigned long long)(wanted & ~offered));
	options.event_idx = options.event_idx && offered & FEATURE_EVENT_IDX;
	wanted |= options.event_idx ? FEATURE_EVENT_IDX : 0;
	protocol = ask(GET_PROTOCOL_FEATURES, NULL, 0) &
		   (PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_CONFIGURE_MEM_SLOTS);
	tell(SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol), NULL, 0);
	acknowledged = protocol & PROTOCOL_REPLY_ACK;
	tell(SET_OWNER, NULL, 0, NULL, 0);
	tell(SET_FEATURES, &wanted, sizeof(wanted), NULL, 0);
	if (options.queues > (protocol & PROTOCOL_MQ ? ask(GET_QUEUE_NUM, NULL, 0) : 1))
		die("the device has less than %u queues", options.queues);
	if (options.regions > TABLE_REGIONS && (!(protocol & PROTOCOL_CONFIGURE_MEM_SLOTS) ||
						options.regions > ask(GET_MAX_MEM_SLOTS, NULL, 0)))
		die("the back-end takes less than %u regions", options.regions);
	return wanted;
}

static struct region_message region_message(unsigned index)
{
	return (struct region_message){ (uint64_t)index << 32, memory.region,
					(uintptr_t)(memory.start + index * memory.region), index * memory.region };
}

static void share_memory(void)
{
	struct {
		uint32_t number, padding;
		struct region_message regions[TABLE_REGIONS];
	} table = { .number = options.regions };
	int fds[TABLE_REGIONS];

	if (options.regions <= TABLE_REGIONS) {
		for (unsigned i = 0; i < options.regions; i++) {
			table.regions[i] = region_message(i);
			fds[i] = memory.fd;
		}
		tell(SET_MEM_TABLE, &table, 8 + options.regions * sizeof(table.regions[0]), fds, options.regions);
		return;
	}
	for (unsigned i = 0; i < options.regions; i++) {
		struct {
			uint64_t padding;
			struct region_message region;
		} single = { 0, region_message(i) };

		tell(ADD_MEM_REG, &single, sizeof(single), &memory.fd, 1);
	}
}

static void start_queue(unsigned index)
{
	struct queue *queue = &queues[index];
	struct vring_state state = { index, options.queue_size };
	struct vring_addr address = {
		.queue = index,
		.descriptors = (uintptr_t)queue->table,
		.available = (uintptr_t)queue->available,
		.used = (uintptr_t)queue->used,
	};
	uint64_t number = index;

	tell(SET_VRING_NUM, &state, sizeof(state), NULL, 0);
	state.num = 0;
	tell(SET_VRING_BASE, &state, sizeof(state), NULL, 0);
	tell(SET_VRING_ADDR, &address, sizeof(address), NULL, 0);
	tell(SET_VRING_CALL, &number, sizeof(number), &queue->interrupt, 1);
	tell(SET_VRING_KICK, &number, sizeof(number), &queue->kick, 1);
	state.num = 1;
	tell(SET_VRING_ENABLE, &state, sizeof(state), NULL, 0);
}

static void stop_queue(unsigned index)
{
	struct vring_state state = { index, 0 };

	tell(SET_VRING_ENABLE, &state, sizeof(state), NULL, 0);
	ask(GET_VRING_BASE, &state, sizeof(state));
}

/* The back-end's processes: whoever listens on the socket, and its descendants. */

#define MAXIMUM_PROCESSES 64

struct process {
	int pid;
	uint64_t memory_before, memory_after; /* KiB of its own and of files, without shared memory */
};

static struct process processes[MAXIMUM_PROCESSES];
static unsigned number_of_processes;

static void find_processes(int pid)
{
	char path[64];
	FILE *file;
	int child;

	if (number_of_processes == MAXIMUM_PROCESSES)
		return;
	processes[number_of_processes++].pid = pid;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	file = fopen(path, "re");
	if (!file)
		return;
	while (fscanf(file, "%d", &child) == 1)
		find_processes(child);
	fclose(file);
}

static void find_back_end(void)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0)
		find_processes(peer.pid);
}

/* Nanoseconds that all threads of a process ran. */
static uint64_t process_time(int pid)
{
	char path[300];
	uint64_t total = 0;
	struct dirent *entry;
	DIR *threads;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	threads = opendir(path);
	while (threads && (entry = readdir(threads))) {
		unsigned long long nanoseconds;
		FILE *file;

		snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pid, entry->d_name);
		file = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
		if (!file)
			continue;
		if (fscanf(file, "%llu", &nanoseconds) == 1)
			total += nanoseconds;
		fclose(file);
	}
	if (threads)
		closedir(threads);
	return total;
}

static uint64_t back_end_time(void)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < number_of_processes; i++)
		total += process_time(processes[i].pid);
	return total;
}

static uint64_t resident_memory(int pid)
{
	char path[64], line[256];
	uint64_t total = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		unsigned long long size;

		if (sscanf(line, "RssAnon: %llu", &size) == 1 || sscanf(line, "RssFile: %llu", &size) == 1)
			total += size;
	}
	if (file)
		fclose(file);
	return total;
}

static uint64_t own_time(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * 1000000000u +
	       ((uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec) * 1000u;
}

/* Results. */

static int ascending(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return left < right ? -1 : left > right;
}

static void print_results(uint64_t wall, uint64_t frontend, uint64_t backend, uint64_t features)
{
	uint64_t kept = counts.rounds < KEPT ? counts.rounds : KEPT;
	double requests = (double)counts.requests;

	qsort(latencies, kept, sizeof(*latencies), ascending);
	printf("{\"in_flight\": %u, \"queue_size\": %u, \"queues\": %u, \"regions\": %u, \"indirect\": %s, "
	       "\"event_idx\": %s, \"features\": %llu, ",
	       options.in_flight, options.queue_size, options.queues, options.regions,
	       options.indirect ? "true" : "false", options.event_idx ? "true" : "false", (unsigned long long)features);
	printf("\"requests\": %llu, \"seconds\": %.6f, \"requests_per_second\": %.1f, \"ns_per_request\": %.2f, ",
	       (unsigned long long)counts.requests, (double)wall / 1e9, requests * 1e9 / (double)wall,
	       (double)wall / requests);
	if (kept)
		printf("\"p50_ns\": %u, \"p99_ns\": %u, ", latencies[kept / 2], latencies[kept * 99 / 100]);
	else
		printf("\"p50_ns\": null, \"p99_ns\": null, ");
	printf("\"frontend_cpu_ns\": %.2f, \"backend_cpu_ns\": ", (double)frontend / requests);
	if (backend)
		printf("%.2f, ", (double)backend / requests);
	else
		printf("null, ");
	printf("\"kicks\": %llu, \"wakeups\": %llu, \"processes\": [", (unsigned long long)counts.kicks,
	       (unsigned long long)counts.wakeups);
	for (unsigned i = 0; i < number_of_processes; i++)
		printf("%s{\"pid\": %d, \"memory_before_kib\": %llu, \"memory_after_kib\": %llu}", i ? ", " : "",
		       processes[i].pid, (unsigned long long)processes[i].memory_before,
		       (unsigned long long)processes[i].memory_after);
	puts("]}");
}

/* The command line. */

static const char usage[] =
	"usage: frontend --socket PATH [options]\n"
	"  --in-flight K    requests submitted at once (1)\n"
	"  --queue-size N   a power of two; 2 K at least, or K with --indirect (the next one, from 128 on)\n"
	"  --queues N       how many queues are driven, K requests in flight on each (1)\n"
	"  --regions N      regions of memory (2)\n"
	"  --indirect       indirect descriptors\n"
	"  --no-event-idx   suppress notifications by flags alone\n"
	"  --sustained      keep K in flight all the time, and poll the ring instead of sleeping\n"
	"  --seconds S      how long (1); 0: until --requests\n"
	"  --requests N     end after N requests\n"
	"  --warm-up N      requests before the clock starts (10 rounds)\n"
	"  --seed N         for whatever is shuffled (1)\n"
	"  --timeout S      give up when nothing comes for S seconds (10)\n";

static void wrong_usage(const char *why) __attribute__((noreturn));

static void wrong_usage(const char *why)
{
	fprintf(stderr, "frontend: %s\n%s", why, usage);
	exit(2);
}

static void read_options(int count, char **arguments)
{
	static const struct option known[] = {
		{ "socket", required_argument, NULL, 's' },	{ "in-flight", required_argument, NULL, 'k' },
		{ "queue-size", required_argument, NULL, 'q' }, { "queues", required_argument, NULL, 'n' },
		{ "regions", required_argument, NULL, 'r' },	{ "indirect", no_argument, NULL, 'i' },
		{ "no-event-idx", no_argument, NULL, 'e' },	{ "sustained", no_argument, NULL, 'p' },
		{ "seconds", required_argument, NULL, 't' },	{ "requests", required_argument, NULL, 'c' },
		{ "warm-up", required_argument, NULL, 'w' },	{ "seed", required_argument, NULL, 'd' },
		{ "timeout", required_argument, NULL, 'o' },	{ NULL, 0, NULL, 0 },
	};
	unsigned needed;

	for (int name; (name = getopt_long(count, arguments, "", known, NULL)) != -1;) {
		unsigned long number = optarg ? strtoul(optarg, NULL, 10) : 0;

		switch (name) {
		case 's': options.socket = optarg; break;
		case 'k': options.in_flight = (unsigned)number; break;
		case 'q': options.queue_size = (unsigned)number; break;
		case 'n': options.queues = (unsigned)number; break;
		case 'r': options.regions = (unsigned)number; break;
		case 'i': options.indirect = true; break;
		case 'e': options.event_idx = false; break;
		case 'p': options.sustained = true; break;
		case 't': options.seconds = strtod(optarg, NULL); break;
		case 'c': options.requests = number; break;
		case 'w': options.warm_up = number; break;
		case 'd': options.seed = number; break;
		case 'o': options.timeout = (unsigned)number; break;
		default: wrong_usage("unknown option");
		}
	}
	if (!options.socket || optind != count)
		wrong_usage("--socket is needed, and nothing but options");
	if (!options.in_flight || options.in_flight > 32768 || !options.queues || options.queues > 256 ||
	    !options.regions || options.regions > 509 || options.timeout < 1 || options.timeout > 3600)
		wrong_usage("a number is out of range");
	needed = options.indirect ? options.in_flight : 2 * options.in_flight;
	if (!options.queue_size)
		for (options.queue_size = 128; options.queue_size < needed;)
			options.queue_size *= 2;
	if (options.queue_size & (options.queue_size - 1) || options.queue_size > 32768 || options.queue_size < needed)
		wrong_usage("the queue size has to be a power of two with room for what is in flight, up to 32768");
	if (options.seconds <= 0 && !options.requests)
		wrong_usage("give --seconds or --requests");
	if (!options.requests)
		options.requests = UINT64_MAX;
	if (!options.warm_up)
		options.warm_up = 10ull * options.queues * options.in_flight;
}

static void fill_values(void)
{
	for (uint32_t i = 0; i < VALUES; i++) {
		values[i] = i < VALUES - 8 ? i : UINT32_MAX >> (VALUES - 1 - i);
		factorials[i] = 1;
		for (uint32_t n = 2; n <= values[i] && factorials[i]; n++)
			factorials[i] *= n;
	}
}

int main(int count, char **arguments)
{
	uint64_t features, wall, frontend, backend;
	struct pollfd *polled;

	read_options(count, arguments);
	random_state = options.seed * 0x9e3779b97f4a7c15ull | 1;
	fill_values();
	latencies = must(calloc(KEPT, sizeof(*latencies)));
	connect_to_socket();
	find_back_end();
	features = negotiate();
	make_memory();
	queues = must(calloc(options.queues, sizeof(*queues)));
	polled = must(calloc(options.queues, sizeof(*polled)));
	share_memory();
	for (unsigned i = 0; i < options.queues; i++) {
		make_queue(&queues[i]);
		polled[i] = (struct pollfd){ .fd = queues[i].interrupt, .events = POLLIN };
		start_queue(i);
	}
	run(polled, 0, options.warm_up);
	for (unsigned i = 0; i < number_of_processes; i++)
		processes[i].memory_before = resident_memory(processes[i].pid);
	frontend = own_time();
	backend = back_end_time();
	wall = run(polled, options.seconds, options.requests);
	backend = back_end_time() - backend;
	frontend = own_time() - frontend;
	for (unsigned i = 0; i < number_of_processes; i++)
		processes[i].memory_after = resident_memory(processes[i].pid);
	for (unsigned i = 0; i < options.queues; i++)
		stop_queue(i);
	print_results(wall, frontend, backend, features);
	return 0;
}
