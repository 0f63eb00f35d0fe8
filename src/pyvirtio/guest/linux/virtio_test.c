// SPDX-License-Identifier: GPL-2.0
/*
 * Driver for the virtio test device: /dev/virtio_misc computes factorials.
 *
 * write() of one native-endian u32, n, submits one request. read() waits for
 * the answer to the last request that was written to this open file and gives
 * n! modulo 2^32 as a native-endian u32 or, with VIRTIO_TEST_F_EXACT, all of n!
 * as a little-endian integer of as many bytes as it needs. A write rewinds the
 * file; reads go on from the file offset, and 0 bytes mean the answer's end.
 *
 * Who owns what:
 *
 * struct vtest, the device as files see it, lives until the virtio device is
 * gone and the last file is closed. After removal vtest->vq is NULL: nothing
 * reached through the virtqueue (the virtio device included) may be touched
 * except under vtest->lock and while vtest->vq is not NULL.
 *
 * struct vtest_request has two owners: the file whose last request it is, and
 * the driver side of the queue, from being added until it is completed: by the
 * device or, if the device is reset first, by the driver. A request that its
 * file gave up (by another write, or by being closed) is freed when it is
 * completed. Its buffers belong to the device until then; so they outlive a
 * broken queue and go only once the device has been reset.
 *
 * Nothing that the device writes is trusted. The configuration space is not
 * read at all: the virtio core does not know its length, and a read beyond it
 * is a BUG() on some transports.
 */

#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/ratelimit.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "virtio_test.h"

#ifndef kzalloc_obj	/* Before Linux 7.0 */
#define kzalloc_obj(obj, gfp)	kzalloc(sizeof(obj), gfp)
#endif

#define VTEST_MINOR		144
#define VTEST_CHAIN		2	/* Descriptors of one request */
#define VTEST_RESPONSE_MAX	SZ_1M	/* One piece of kmalloc()ed memory */
#define VTEST_LOG_BURST		40	/* Lines in five seconds */

struct vtest {
	struct kref ref;
	struct miscdevice misc;
	char name[24];
	int index;
	bool exact;			/* VIRTIO_TEST_F_EXACT was negotiated */
	size_t response_max;
	struct work_struct config_work;
	struct ratelimit_state log;
	wait_queue_head_t answered;	/* Readers, and poll() */
	wait_queue_head_t room;		/* Writers, and poll() */

	spinlock_t lock;		/* Protects all below, and the requests */
	struct virtqueue *vq;		/* NULL while suspended and once gone */
	int error;			/* Why nothing works any longer, or 0 */
	struct list_head parked;	/* Requests without a queue to be in */
};

struct vtest_file {
	struct vtest *vtest;
	struct vtest_request *last;	/* Protected by vtest->lock */
};

struct vtest_request {
	struct kref ref;
	struct list_head list;		/* In vtest->parked */
	u32 n;
	bool done;			/* The fields up to data are final */
	int error;
	u32 ret;
	size_t size;			/* What read() has to give */
	const void *data;
	struct virtio_test_request out;
	void *response;			/* Its own allocation, as DMA wants it */
	size_t response_size;
};

static DEFINE_IDA(vtest_ida);

static void vtest_free(struct kref *ref)
{
	kfree(container_of(ref, struct vtest, ref));
}

static void vtest_request_free(struct kref *ref)
{
	struct vtest_request *req = container_of(ref, struct vtest_request, ref);

	kfree(req->response);
	kfree(req);
}

static void vtest_request_put(struct vtest_request *req)
{
	if (req)
		kref_put(&req->ref, vtest_request_free);
}

/*
 * Room for n! is known beforehand: n! <= n^n < 2^(n * fls(n)). Rounding allows
 * for a device that pads the value. Where that would be more than the driver
 * allocates there is room for the status alone.
 */
static size_t vtest_response_size(const struct vtest *vtest, u32 n)
{
	u64 size = DIV_ROUND_UP_ULL((u64)n * fls(n), BITS_PER_BYTE) + 1;

	if (!vtest->exact)
		return sizeof(struct virtio_test_response);
	size = round_up(size + sizeof(struct virtio_test_exact), SZ_64);
	if (size > vtest->response_max)
		return sizeof(struct virtio_test_exact);
	return size;
}

/* The response is zeroed, lest a device that wrote nothing shows old memory. */
static struct vtest_request *vtest_request_alloc(const struct vtest *vtest, u32 n)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
	struct vtest_request *req;

	req = kzalloc_obj(*req, gfp);
	if (!req)
		return NULL;
	kref_init(&req->ref);
	req->n = n;
	strscpy(req->out.arg2, "hello back end!", sizeof(req->out.arg2));
	req->response_size = vtest_response_size(vtest, n);
	req->response = kzalloc(req->response_size, gfp);
	if (!req->response) {
		kfree(req);
		return NULL;
	}
	return req;
}

static int vtest_parse_wrapped(struct vtest_request *req, unsigned int len,
			       struct virtio_device *vdev)
{
	const struct virtio_test_response *response = req->response;

	if (len != sizeof(*response))
		return -EIO;
	req->ret = virtio32_to_cpu(vdev, response->ret);
	req->data = &req->ret;
	req->size = sizeof(req->ret);
	return 0;
}

static int vtest_parse_exact(struct vtest_request *req, unsigned int len)
{
	const struct virtio_test_exact *response = req->response;
	u32 size;

	if (len < sizeof(*response) || len > req->response_size)
		return -EIO;
	req->ret = le32_to_cpu(response->ret);
	/* Read once: what was checked must be what is used. */
	size = le32_to_cpu(READ_ONCE(response->size));
	switch (le32_to_cpu(READ_ONCE(response->status))) {
	case VIRTIO_TEST_S_DONE:
		if (!size || size > len - sizeof(*response))
			return -EIO;
		req->data = response->value;
		req->size = size;
		return 0;
	case VIRTIO_TEST_S_NO_ROOM:
		return -EOVERFLOW;
	case VIRTIO_TEST_S_TOO_BIG:
		return -ERANGE;
	default:
		return -EIO;
	}
}

/* The queue's share of the request ends here. */
static void vtest_complete(struct vtest_request *req, int error)
{
	req->error = error;
	req->done = true;
	vtest_request_put(req);
}

static void vtest_reap(struct vtest *vtest, struct vtest_request *req,
		       unsigned int len)
{
	struct virtio_device *vdev = vtest->vq->vdev;
	int error;

	error = vtest->exact ? vtest_parse_exact(req, len) :
			       vtest_parse_wrapped(req, len, vdev);
	if (__ratelimit(&vtest->log)) {
		if (error == -EIO)
			dev_warn(&vdev->dev, "bad answer, %u bytes\n", len);
		else
			pr_info("virtio response ret is %u\n", req->ret);
	}
	vtest_complete(req, error);
}

static void vtest_wake(struct vtest *vtest)
{
	wake_up_interruptible(&vtest->answered);
	wake_up_interruptible(&vtest->room);
}

/*
 * The virtqueue's callback. A used ring that lies makes the core mark the queue
 * as broken, which shows nowhere else: leave the loop, nothing will come.
 */
static void test_request_done(struct virtqueue *vq)
{
	struct vtest *vtest = vq->vdev->priv;
	struct vtest_request *req;
	unsigned long flags;
	unsigned int len;

	spin_lock_irqsave(&vtest->lock, flags);
	if (vtest->vq != vq)	/* Being removed, or not yet ready */
		goto out;
	if (__ratelimit(&vtest->log))	/* A blank at both ends, by tradition */
		pr_info(" %s called, line: %d%c\n", __func__, __LINE__, ' ');
	do {
		virtqueue_disable_cb(vq);
		while ((req = virtqueue_get_buf(vq, &len)))
			vtest_reap(vtest, req, len);
		if (virtqueue_is_broken(vq)) {
			vtest->error = -EIO;
			break;
		}
	} while (!virtqueue_enable_cb(vq));
out:
	spin_unlock_irqrestore(&vtest->lock, flags);
	vtest_wake(vtest);
}

/* Under vtest->lock, with a queue that has room. On success the queue owns req. */
static int vtest_add(struct vtest *vtest, struct vtest_request *req)
{
	struct scatterlist out, in, *sgs[] = { &out, &in };

	req->out.arg1 = cpu_to_virtio32(vtest->vq->vdev, req->n);
	sg_init_one(&out, &req->out, sizeof(req->out));
	sg_init_one(&in, req->response, req->response_size);
	return virtqueue_add_sgs(vtest->vq, sgs, 1, 1, req, GFP_ATOMIC);
}

/* Under vtest->lock: outside it the queue might be gone. */
static int vtest_kick(struct vtest *vtest)
{
	if (!virtqueue_kick(vtest->vq)) {
		vtest->error = -EIO;
		vtest_wake(vtest);
	}
	return vtest->error;
}

/* A chain takes fewer descriptors where they are indirect: no matter. */
static bool vtest_has_room(const struct vtest *vtest)
{
	return vtest->vq && vtest->vq->num_free >= VTEST_CHAIN;
}

/* Under vtest->lock, which it drops to sleep. */
static int vtest_wait_room(struct vtest *vtest, bool nonblock)
{
	int err = 0;

	if (!nonblock)
		err = wait_event_interruptible_lock_irq(vtest->room,
							vtest->error ||
							vtest_has_room(vtest),
							vtest->lock);
	if (err || vtest->error)
		return err ?: vtest->error;
	return vtest_has_room(vtest) ? 0 : -EAGAIN;
}

/* Under vtest->lock, which it drops to sleep. */
static int vtest_wait_answer(struct vtest *vtest, struct vtest_request *req,
			     bool nonblock)
{
	int err = 0;

	if (!nonblock)
		err = wait_event_interruptible_lock_irq(vtest->answered,
							vtest->error || req->done,
							vtest->lock);
	if (req->done)
		return req->error;
	return err ?: vtest->error ?: -EAGAIN;
}

static ssize_t vtest_write(struct file *filp, const char __user *buf,
			   size_t count, loff_t *ppos)
{
	struct vtest_file *file = filp->private_data;
	struct vtest *vtest = file->vtest;
	struct vtest_request *req;
	int err;
	u32 n;

	if (count != sizeof(n))
		return -EINVAL;
	if (copy_from_user(&n, buf, sizeof(n)))
		return -EFAULT;
	req = vtest_request_alloc(vtest, n);
	if (!req)
		return -ENOMEM;

	spin_lock_irq(&vtest->lock);
	err = vtest_wait_room(vtest, filp->f_flags & O_NONBLOCK);
	if (!err)
		err = vtest_add(vtest, req);
	if (!err) {
		kref_get(&req->ref);
		swap(file->last, req);
		err = vtest_kick(vtest);
	}
	spin_unlock_irq(&vtest->lock);

	vtest_request_put(req);	/* The former one, or the one that failed */
	if (err)
		return err;
	*ppos = 0;
	return count;
}

static ssize_t vtest_read(struct file *filp, char __user *buf, size_t count,
			  loff_t *ppos)
{
	struct vtest_file *file = filp->private_data;
	struct vtest *vtest = file->vtest;
	struct vtest_request *req;
	ssize_t ret = -ENODATA;

	spin_lock_irq(&vtest->lock);
	req = file->last;
	if (req) {
		kref_get(&req->ref);
		ret = vtest_wait_answer(vtest, req, filp->f_flags & O_NONBLOCK);
	}
	spin_unlock_irq(&vtest->lock);

	if (!ret)
		ret = simple_read_from_buffer(buf, count, ppos, req->data, req->size);
	vtest_request_put(req);
	return ret;
}

static __poll_t vtest_poll(struct file *filp, poll_table *wait)
{
	struct vtest_file *file = filp->private_data;
	struct vtest *vtest = file->vtest;
	__poll_t mask = 0;

	poll_wait(filp, &vtest->answered, wait);
	poll_wait(filp, &vtest->room, wait);
	spin_lock_irq(&vtest->lock);
	if (file->last && file->last->done)
		mask |= EPOLLIN | EPOLLRDNORM;
	if (vtest->error)
		mask |= EPOLLERR | EPOLLHUP;
	else if (vtest_has_room(vtest))
		mask |= EPOLLOUT | EPOLLWRNORM;
	spin_unlock_irq(&vtest->lock);
	return mask;
}

/* misc_deregister() waits for this to return, so the device is still there. */
static int vtest_open(struct inode *inode, struct file *filp)
{
	struct vtest *vtest = container_of(filp->private_data, struct vtest, misc);
	struct vtest_file *file;

	file = kzalloc_obj(*file, GFP_KERNEL_ACCOUNT);
	if (!file)
		return -ENOMEM;
	kref_get(&vtest->ref);
	file->vtest = vtest;
	filp->private_data = file;
	return 0;
}

static int vtest_release(struct inode *inode, struct file *filp)
{
	struct vtest_file *file = filp->private_data;

	vtest_request_put(file->last);
	kref_put(&file->vtest->ref, vtest_free);
	kfree(file);
	return 0;
}

static const struct file_operations vtest_fops = {
	.owner = THIS_MODULE,
	.open = vtest_open,
	.release = vtest_release,
	.read = vtest_read,
	.write = vtest_write,
	.poll = vtest_poll,
};

/* The first device has the name and, unless another driver took it, the minor. */
static int vtest_register(struct vtest *vtest, struct virtio_device *vdev)
{
	int err = -EBUSY;

	vtest->index = ida_alloc(&vtest_ida, GFP_KERNEL);
	if (vtest->index < 0)
		return vtest->index;
	if (vtest->index)
		snprintf(vtest->name, sizeof(vtest->name), "virtio_misc%d", vtest->index);
	else
		strscpy(vtest->name, "virtio_misc", sizeof(vtest->name));
	vtest->misc.name = vtest->name;
	vtest->misc.fops = &vtest_fops;
	vtest->misc.parent = &vdev->dev;
	if (!vtest->index) {
		vtest->misc.minor = VTEST_MINOR;
		err = misc_register(&vtest->misc);
	}
	if (err == -EBUSY) {
		vtest->misc.minor = MISC_DYNAMIC_MINOR;
		err = misc_register(&vtest->misc);
	}
	if (err)
		ida_free(&vtest_ida, vtest->index);
	return err;
}

static void vtest_unregister(struct vtest *vtest)
{
	misc_deregister(&vtest->misc);
	ida_free(&vtest_ida, vtest->index);
}

/*
 * Make the device ready; add what is parked. Kicks and callbacks count from the
 * moment when vtest->vq is set, after DRIVER_OK.
 */
static int vtest_start(struct vtest *vtest, struct virtio_device *vdev)
{
	struct vtest_request *req, *next;
	struct virtqueue *vq;
	int err;

	vq = virtio_find_single_vq(vdev, test_request_done, "virtio_test");
	if (IS_ERR(vq))
		return PTR_ERR(vq);
	if (virtqueue_get_vring_size(vq) < VTEST_CHAIN) {
		dev_err(&vdev->dev, "the queue is too small for a request\n");
		vdev->config->del_vqs(vdev);
		return -EINVAL;
	}
	virtio_device_ready(vdev);

	spin_lock_irq(&vtest->lock);
	vtest->vq = vq;
	vtest->error = 0;
	list_for_each_entry_safe(req, next, &vtest->parked, list) {
		list_del(&req->list);
		err = vtest_add(vtest, req);
		if (err)
			vtest_complete(req, -EIO);
	}
	vtest_kick(vtest);
	spin_unlock_irq(&vtest->lock);
	vtest_wake(vtest);
	return 0;
}

/*
 * Take the device away from its buffers, then the queue from the device. The
 * reset is the transport's own: virtio_reset_device() is younger than Linux 5.4,
 * and what it adds keeps callbacks out, which here vtest->vq does.
 */
static void vtest_stop(struct vtest *vtest, struct virtio_device *vdev)
{
	struct vtest_request *req;
	struct virtqueue *vq;

	cancel_work_sync(&vtest->config_work);
	spin_lock_irq(&vtest->lock);
	vq = vtest->vq;
	vtest->vq = NULL;
	spin_unlock_irq(&vtest->lock);
	if (!vq)	/* It could not be set up after suspend */
		return;

	vdev->config->reset(vdev);
	while ((req = virtqueue_detach_unused_buf(vq)))
		list_add_tail(&req->list, &vtest->parked);
	vdev->config->del_vqs(vdev);
}

/* Complete every request: no more answers will come. */
static void vtest_abort(struct vtest *vtest, int error)
{
	struct vtest_request *req, *next;

	spin_lock_irq(&vtest->lock);
	vtest->error = error;
	list_for_each_entry_safe(req, next, &vtest->parked, list) {
		list_del(&req->list);
		vtest_complete(req, error);
	}
	spin_unlock_irq(&vtest->lock);
	vtest_wake(vtest);
}

/* The core delivers no configuration change before probe and after remove. */
static void vtest_config_work(struct work_struct *work)
{
	struct vtest *vtest = container_of(work, struct vtest, config_work);
	struct virtio_device *vdev = vtest->vq->vdev;

	if (!(vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_NEEDS_RESET))
		return;
	dev_err(&vdev->dev, "the device needs a reset\n");
	spin_lock_irq(&vtest->lock);
	vtest->error = -EIO;
	spin_unlock_irq(&vtest->lock);
	vtest_wake(vtest);
}

/* Asking for the status may sleep on some transports. */
static void vtest_config_changed(struct virtio_device *vdev)
{
	struct vtest *vtest = vdev->priv;

	schedule_work(&vtest->config_work);
}

static int vtest_probe(struct virtio_device *vdev)
{
	struct vtest *vtest;
	int err;

	vtest = kzalloc_obj(*vtest, GFP_KERNEL);
	if (!vtest)
		return -ENOMEM;
	kref_init(&vtest->ref);
	vtest->exact = virtio_has_feature(vdev, VIRTIO_TEST_F_EXACT);
	vtest->response_max = min_t(size_t, VTEST_RESPONSE_MAX,
				    virtio_max_dma_size(vdev));
	INIT_WORK(&vtest->config_work, vtest_config_work);
	ratelimit_state_init(&vtest->log, DEFAULT_RATELIMIT_INTERVAL, VTEST_LOG_BURST);
	init_waitqueue_head(&vtest->answered);
	init_waitqueue_head(&vtest->room);
	spin_lock_init(&vtest->lock);
	INIT_LIST_HEAD(&vtest->parked);
	vdev->priv = vtest;

	err = vtest_start(vtest, vdev);
	if (err)
		goto err_put;
	err = vtest_register(vtest, vdev);
	if (err)
		goto err_stop;
	pr_info("misc register has succeeded\n");
	return 0;

err_stop:
	vtest_stop(vtest, vdev);
err_put:
	kref_put(&vtest->ref, vtest_free);
	return err;
}

static void vtest_remove(struct virtio_device *vdev)
{
	struct vtest *vtest = vdev->priv;

	vtest_unregister(vtest);
	vtest_stop(vtest, vdev);
	vtest_abort(vtest, -ENODEV);
	kref_put(&vtest->ref, vtest_free);
}

#ifdef CONFIG_PM_SLEEP
/* What is in flight is parked, and asked again afterwards: n! stays n!. */
static int vtest_freeze(struct virtio_device *vdev)
{
	vtest_stop(vdev->priv, vdev);
	return 0;
}

static int vtest_restore(struct virtio_device *vdev)
{
	struct vtest *vtest = vdev->priv;
	int err = vtest_start(vtest, vdev);

	if (err)
		vtest_abort(vtest, -EIO);
	return err;
}
#endif

static const unsigned int vtest_features[] = {
	VIRTIO_TEST_F_CAN_PRINT,
	VIRTIO_TEST_F_EXACT,
};

static const struct virtio_device_id vtest_ids[] = {
	{ VIRTIO_ID_TEST, VIRTIO_DEV_ANY_ID },
	{ VIRTIO_ID_TEST_UNCLAIMED, VIRTIO_DEV_ANY_ID },
	{ VIRTIO_ID_TEST_UNASSIGNED, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, vtest_ids);

static struct virtio_driver vtest_driver = {
	.driver.name = "virtio_test",
	.driver.owner = THIS_MODULE,
	.feature_table = vtest_features,
	.feature_table_size = ARRAY_SIZE(vtest_features),
	.id_table = vtest_ids,
	.probe = vtest_probe,
	.remove = vtest_remove,
	.config_changed = vtest_config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = vtest_freeze,
	.restore = vtest_restore,
#endif
};
module_virtio_driver(vtest_driver);

MODULE_DESCRIPTION("Driver for the virtio test device, which computes factorials");
MODULE_LICENSE("GPL");
