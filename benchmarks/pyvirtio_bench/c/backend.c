// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Three devices on QEMU's libvhost-user, the peer that pyvirtio is measured against: the tutorial's factorial, an echo,
 * and a disk that can be read.
 *
 * They are what somebody would write in C today with care for speed: no kicks while a queue is drained, one interrupt
 * when it is empty, a table instead of a loop, reads straight into the guest's memory. One thread serves all queues.
 * Front-ends are served one after the other, until SIGTERM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "libvhost-user.h"

#define FEATURE_CAN_PRINT (1ull << 0)
#define FEATURE_INDIRECT_DESC (1ull << 28)
#define FEATURE_EVENT_IDX (1ull << 29)
#define FEATURE_VERSION_1 (1ull << 32)
#define PROTOCOL_CONFIG (1ull << 9)

/* Memory is little-endian, as on a modern device; so is every machine that this is measured on. */

static size_t bytes_of(const struct iovec *parts, unsigned number)
{
	size_t size = 0;

	for (unsigned i = 0; i < number; i++)
		size += parts[i].iov_len;
	return size;
}

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

/* Each device answers one request: it returns how many bytes it wrote. */

struct device {
	const char *name;
	uint64_t features;
	unsigned (*answer)(const VuVirtqElement *element);
};

static const struct device *device_here;

/* The tutorial's: le32 n and 32 bytes of text in, le32 n! modulo 2^32 out. */

static uint32_t factorials[35];

static unsigned answer_factorial(const VuVirtqElement *element)
{
	struct {
		uint32_t arg1;
		char arg2[32];
	} request;
	uint32_t ret;

	if (!gather(element, &request, sizeof(request)))
		return 0;
	ret = factorials[request.arg1 < 34 ? request.arg1 : 34];
	return scatter(element, &ret, sizeof(ret)) ? sizeof(ret) : 0;
}

/* What came is copied twice, as it is where it is looked at before it goes on: a driver can change its buffers. */

static unsigned answer_echo(const VuVirtqElement *element)
{
	static char copy[1 << 16];
	size_t size = bytes_of(element->out_sg, element->out_num);

	if (size > sizeof(copy) || !gather(element, copy, size))
		return 0;
	return scatter(element, copy, size) ? (unsigned)size : 0;
}

/* A disk that can be read (VIRTIO 1.4, 5.2.6): a header in, the data and a status out. */

#define MAXIMUM_SEGMENTS 128

static int image = -1;

static unsigned answer_block(const VuVirtqElement *element)
{
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	struct iovec data[MAXIMUM_SEGMENTS];
	size_t size = bytes_of(element->in_sg, element->in_num);
	unsigned last = element->in_num - 1;
	uint8_t *status;

	if (!gather(element, &header, sizeof(header)) || header.type || !size || element->in_num > MAXIMUM_SEGMENTS)
		return 0;
	memcpy(data, element->in_sg, element->in_num * sizeof(*data));
	status = (uint8_t *)data[last].iov_base + --data[last].iov_len;
	*status = preadv(image, data, (int)element->in_num, (off_t)(header.sector * 512)) != (ssize_t)(size - 1);
	return (unsigned)size;
}

static const struct device devices[] = {
	{ "factorial", FEATURE_CAN_PRINT, answer_factorial },
	{ "echo", 0, answer_echo },
	{ "block", 0, answer_block },
};

static void serve_queue(VuDev *device, int index)
{
	VuVirtq *queue = vu_get_queue(device, index);

	do {
		bool pushed = false;
		VuVirtqElement *element;

		vu_queue_set_notification(device, queue, 0);
		while ((element = vu_queue_pop(device, queue, sizeof(*element)))) {
			vu_queue_push(device, queue, element, device_here->answer(element));
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
	return device_here->features | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX | FEATURE_VERSION_1;
}

static void set_features(VuDev *device, uint64_t features)
{
	(void)device;
	(void)features;
}

/* The configuration space of each: zeros, and what a driver wrote there. */

static uint8_t config[60];

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
	memcpy(data, config, size);
	return 0;
}

static int set_config(VuDev *device, const uint8_t *data, uint32_t offset, uint32_t size, uint32_t flags)
{
	(void)device;
	(void)flags;
	if (offset > sizeof(config) || size > sizeof(config) - offset)
		return -1;
	memcpy(config + offset, data, size);
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

#define QUEUES 16

static void serve_connection(int socket)
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

	if (!vu_init(&device, QUEUES, socket, panicked, NULL, set_watch, remove_watch, &interface)) {
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

static void choose_device(const char *name, const char *argument)
{
	for (size_t i = 0; i < sizeof(devices) / sizeof(*devices); i++)
		if (!strcmp(devices[i].name, name))
			device_here = &devices[i];
	if (device_here && device_here->answer == answer_block && argument && (image = open(argument, O_RDONLY)) < 0) {
		fprintf(stderr, "backend: %s: %s\n", argument, strerror(errno));
		exit(1);
	}
	if (!device_here || (device_here->answer == answer_block) != (image >= 0)) {
		fprintf(stderr, "usage: backend PATH factorial | echo | block IMAGE\n");
		exit(2);
	}
	factorials[0] = 1;
	for (uint32_t n = 1; n < 35; n++)
		factorials[n] = factorials[n - 1] * n;
}

int main(int count, char **arguments)
{
	int listener;

	choose_device(count > 2 ? arguments[2] : "", count > 3 ? arguments[3] : NULL);
	listener = listen_on(arguments[1]);
	fprintf(stderr, "backend: ready on %s\n", arguments[1]);
	for (;;) {
		int socket = accept(listener, NULL, NULL);

		if (socket >= 0)
			serve_connection(socket);
	}
}
