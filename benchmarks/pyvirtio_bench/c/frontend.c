// SPDX-License-Identifier: MIT
/*
 * A vhost-user front-end that keeps a device busy, checks every answer and prints one JSON object.
 *
 * Any back-end that serves a device which answers the load's requests will do (frontend/load.c.inc). There are two
 * ways to do it:
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

static struct {
	const char *socket;
	unsigned in_flight, queue_size, regions, queues;
	double seconds;
	uint64_t requests, warm_up, seed, span;
	uint32_t bytes;
	bool indirect, event_idx, sustained, sequential;
	unsigned timeout;
} options = { .in_flight = 1, .regions = 2, .queues = 1, .seconds = 1, .seed = 1, .event_idx = true, .timeout = 10,
	      .bytes = 4096 };

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

static const char usage[] =
	"usage: frontend --socket PATH [options]\n"
	"  --load NAME      factorial, echo or read (factorial)\n"
	"  --bytes N        that echo sends, or that one read asks for (4096)\n"
	"  --span N         bytes of the image, each block of 4096 with its number at its beginning\n"
	"  --sequential     read one piece after the other\n"
	"  --in-flight K    requests submitted at once (1)\n"
	"  --queue-size N   a power of two with room for K requests, which take 2 descriptors, reads 3, and one with\n"
	"                   --indirect (the next one, from 128 on)\n"
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

#include "frontend/load.c.inc"
#include "frontend/memory.c.inc"
#include "frontend/queue.c.inc"
#include "frontend/run.c.inc"
#include "frontend/vhost_user.c.inc"
#include "frontend/back_end.c.inc"

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

static void read_options(int count, char **arguments)
{
	static const struct option known[] = {
		{ "load", required_argument, NULL, 'l' },	{ "bytes", required_argument, NULL, 'b' },
		{ "span", required_argument, NULL, 'a' },	{ "sequential", no_argument, NULL, 'u' },
		{ "socket", required_argument, NULL, 's' },	{ "in-flight", required_argument, NULL, 'k' },
		{ "queue-size", required_argument, NULL, 'q' }, { "queues", required_argument, NULL, 'n' },
		{ "regions", required_argument, NULL, 'r' },	{ "indirect", no_argument, NULL, 'i' },
		{ "no-event-idx", no_argument, NULL, 'e' },	{ "sustained", no_argument, NULL, 'p' },
		{ "seconds", required_argument, NULL, 't' },	{ "requests", required_argument, NULL, 'c' },
		{ "warm-up", required_argument, NULL, 'w' },	{ "seed", required_argument, NULL, 'd' },
		{ "timeout", required_argument, NULL, 'o' },	{ NULL, 0, NULL, 0 },
	};
	const char *name_of_load = "factorial";
	unsigned needed;

	for (int name; (name = getopt_long(count, arguments, "", known, NULL)) != -1;) {
		unsigned long number = optarg ? strtoul(optarg, NULL, 10) : 0;

		switch (name) {
		case 'l': name_of_load = optarg; break;
		case 'b': options.bytes = (uint32_t)number; break;
		case 'a': options.span = number; break;
		case 'u': options.sequential = true; break;
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
	if (options.bytes > 1 << 20)
		wrong_usage("--bytes ends at 1 MiB");
	choose_load(name_of_load);
	needed = options.in_flight * (options.indirect ? 1 : number_of_parts());
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

int main(int count, char **arguments)
{
	uint64_t features, wall, frontend, backend;
	struct pollfd *polled;

	read_options(count, arguments);
	random_state = options.seed * 0x9e3779b97f4a7c15ull | 1;
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
