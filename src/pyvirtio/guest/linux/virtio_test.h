/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The virtio test device: it computes factorials.
 *
 * A request is a chain of two buffers, a device-readable struct
 * virtio_test_request and a device-writable response. The response is a struct
 * virtio_test_response, or, with VIRTIO_TEST_F_EXACT, a struct
 * virtio_test_exact with the value behind it.
 */
#ifndef _VIRTIO_TEST_H
#define _VIRTIO_TEST_H

#include <linux/types.h>
#include <linux/virtio_types.h>

/*
 * The first id is the tutorial's. VIRTIO 1.4 has given it to the SPI controller,
 * and not every QEMU forwards it. 38 is one that QEMU forwards and that no
 * driver claims; 63 is not assigned.
 */
#define VIRTIO_ID_TEST			45
#define VIRTIO_ID_TEST_UNCLAIMED	38
#define VIRTIO_ID_TEST_UNASSIGNED	63

/* Feature bits */
#define VIRTIO_TEST_F_CAN_PRINT	0	/* The device logs each request */
#define VIRTIO_TEST_F_EXACT	1	/* The device answers with all of n! */

/* Values of virtio_test_exact.status */
#define VIRTIO_TEST_S_DONE	0	/* The value follows */
#define VIRTIO_TEST_S_NO_ROOM	1	/* The value needs size bytes, there are fewer */
#define VIRTIO_TEST_S_TOO_BIG	2	/* arg1 is above max_exact */

struct virtio_test_config {
	__virtio32 num_pages;
	__virtio32 actual;
	__virtio32 event;
	/* Only with VIRTIO_TEST_F_EXACT: the largest arg1 with an exact answer */
	__le32 max_exact;
};

struct virtio_test_request {
	__virtio32 arg1;	/* n */
	char arg2[32];		/* Text, padded with NUL */
};

struct virtio_test_response {
	__virtio32 ret;		/* n! modulo 2^32 */
};

struct virtio_test_exact {
	__le32 ret;		/* n! modulo 2^32 */
	__le32 status;		/* VIRTIO_TEST_S_* */
	__le32 size;		/* Bytes of value, or bytes needed for it */
	__u8 value[];		/* n!, little-endian */
};

#endif /* _VIRTIO_TEST_H */
