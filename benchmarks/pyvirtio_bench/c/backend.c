// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The factorial device on QEMU's libvhost-user: the peer that pyvirtio is measured against.
 *
 * It is what somebody would write in C today with care for speed: no kicks while it drains a queue, one interrupt
 * when the queue is empty, a table instead of a loop. One thread serves all queues. Front-ends are served one after
 * the other, until SIGTERM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "libvhost-user.h"

#define FEATURE_CAN_PRINT (1ull << 0)
#define FEATURE_INDIRECT_DESC (1ull << 28)
#define FEATURE_EVENT_IDX (1ull << 29)
#define FEATURE_VERSION_1 (1ull << 32)
#define PROTOCOL_CONFIG (1ull << 9)

struct request {
	uint32_t arg1;
	char arg2[32];
};

struct config {
	uint32_t num_pages, actual, event;
};

static struct config config;
static uint32_t factorials[35];

/* Memory is little-endian, as on a modern device; so is every machine that this is measured on. */

static bool gather(const VuVirtqElement *element, void *buffer, size_t size)
{
	size_t done = 0;

	for (unsigned i = 0; i < element->out_num && done < size; i++) {
		size_t part = element->out_sg[i].iov_len < size - done ? element->out_sg[i].iov_len : size - done;

		memcpy((char *)buffer + done, element->out_sg[i].iov_base, part);
		done += part;
	}
	return done == size;
}

static bool scatter(const VuVirtqElement *element, const void *buffer, size_t size)
{
	size_t done = 0;

	for (unsigned i = 0; i < element->in_num && done < size; i++) {
		size_t part = element->in_sg[i].iov_len < size - done ? element->in_sg[i].iov_len : size - done;

		memcpy(element->in_sg[i].iov_base, (const char *)buffer + done, part);
		done += part;
	}
	return done == size;
}

static unsigned answer(const VuVirtqElement *element)
{
	struct request request;
	uint32_t ret;

	if (!gather(element, &request, sizeof(request)))
		return 0;
	ret = factorials[request.arg1 < 34 ? request.arg1 : 34];
	return scatter(element, &ret, sizeof(ret)) ? sizeof(ret) : 0;
}

static void serve_queue(VuDev *device, int index)
{
	VuVirtq *queue = vu_get_queue(device, index);

	do {
		bool pushed = false;
		VuVirtqElement *element;

		vu_queue_set_notification(device, queue, 0);
		while ((element = vu_queue_pop(device, queue, sizeof(*element)))) {
			vu_queue_push(device, queue, element, answer(element));
			free(element);
			pushed = true;
		}
		if (pushed)
			vu_queue_notify(device, queue);
		vu_queue_set_notification(device, queue, 1);
		/* What came before kicks were enabled again came without one: look once more. */
	} while (!device->broken && !vu_queue_empty(device, queue));
}

static uint64_t get_features(VuDev *device)
{
	(void)device;
	return FEATURE_CAN_PRINT | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX | FEATURE_VERSION_1;
}

static void set_features(VuDev *device, uint64_t features)
{
	(void)device;
	(void)features;
}

static uint64_t get_protocol_features(VuDev *device)
{
	(void)device;
	return PROTOCOL_CONFIG;
}

static int get_config(VuDev *device, uint8_t *data, uint32_t size)
{
	(void)device;
	if (size > sizeof(config))
		return -1;
	memcpy(data, &config, size);
	return 0;
}

static int set_config(VuDev *device, const uint8_t *data, uint32_t offset, uint32_t size, uint32_t flags)
{
	(void)device;
	(void)flags;
	if (offset > sizeof(config) || size > sizeof(config) - offset)
		return -1;
	memcpy((char *)&config + offset, data, size);
	return 0;
}

static void set_started(VuDev *device, int index, bool started)
{
	vu_set_queue_handler(device, vu_get_queue(device, index), started ? serve_queue : NULL);
}

static bool connected;

/* An end of the connection comes as a message with nothing in it, for which the library would leave the process. */
static int process_message(VuDev *device, VhostUserMsg *message, int *reply)
{
	(void)device;
	(void)reply;
	connected = connected && message->request != VHOST_USER_NONE;
	return !connected;
}

static void panicked(VuDev *device, const char *why)
{
	(void)device;
	fprintf(stderr, "backend: %s\n", why);
	connected = false;
}

/* The loop: which file descriptors are watched, and what is called for each. */

#define MAXIMUM_WATCHES 300

static struct pollfd polled[MAXIMUM_WATCHES];
static struct {
	vu_watch_cb call;
	void *data;
} watches[MAXIMUM_WATCHES];
static unsigned number_of_watches;

static void remove_watch(VuDev *device, int fd)
{
	(void)device;
	for (unsigned i = 0; i < number_of_watches; i++)
		if (polled[i].fd == fd) {
			number_of_watches--;
			polled[i] = polled[number_of_watches];
			watches[i] = watches[number_of_watches];
			return;
		}
}

static void set_watch(VuDev *device, int fd, int condition, vu_watch_cb call, void *data)
{
	remove_watch(device, fd);
	if (number_of_watches == MAXIMUM_WATCHES) {
		panicked(device, "too many file descriptors");
		return;
	}
	polled[number_of_watches] = (struct pollfd){ .fd = fd, .events = (short)condition };
	watches[number_of_watches].call = call;
	watches[number_of_watches++].data = data;
}

static void dispatch(VuDev *device, int condition, void *data)
{
	(void)condition;
	(void)data;
	if (!vu_dispatch(device))
		connected = false;
}

static void serve_connection(int socket, int queues)
{
	static const VuDevIface interface = {
		.get_features = get_features,
		.set_features = set_features,
		.get_protocol_features = get_protocol_features,
		.process_msg = process_message,
		.queue_set_started = set_started,
		.get_config = get_config,
		.set_config = set_config,
	};
	VuDev device;

	if (!vu_init(&device, (uint16_t)queues, socket, panicked, NULL, set_watch, remove_watch, &interface)) {
		fprintf(stderr, "backend: libvhost-user does not start\n");
		exit(1);
	}
	number_of_watches = 0;
	connected = true;
	set_watch(&device, socket, VU_WATCH_IN, dispatch, NULL);
	while (connected) {
		if (poll(polled, number_of_watches, -1) < 0 && errno != EINTR)
			break;
		/* A callback may change the table: the rest then waits for the next turn. */
		for (unsigned i = 0, seen = number_of_watches; i < seen && seen == number_of_watches && connected; i++)
			if (polled[i].revents)
				watches[i].call(&device, polled[i].revents, watches[i].data);
	}
	vu_deinit(&device);
}

static int listen_on(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path)) {
		fprintf(stderr, "backend: the path of the socket is too long\n");
		exit(1);
	}
	strcpy(address.sun_path, path);
	umask(0177);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 8) < 0) {
		fprintf(stderr, "backend: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	return listener;
}

int main(int count, char **arguments)
{
	int listener, queues = count > 2 ? atoi(arguments[2]) : 1;

	if (count < 2 || queues < 1 || queues > 256) {
		fprintf(stderr, "usage: backend PATH [QUEUES]\n");
		return 2;
	}
	factorials[0] = 1;
	for (uint32_t n = 1; n < 35; n++)
		factorials[n] = factorials[n - 1] * n;
	listener = listen_on(arguments[1]);
	fprintf(stderr, "backend: ready on %s\n", arguments[1]);
	for (;;) {
		int socket = accept(listener, NULL, NULL);

		if (socket >= 0)
			serve_connection(socket, queues);
	}
}
