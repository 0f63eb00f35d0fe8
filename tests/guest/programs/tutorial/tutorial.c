// SPDX-License-Identifier: GPL-2.0
/*
 * A driver that asks of its device what the tutorial's does, and no more.
 *
 * It binds virtio id 45 and has a queue only if the device offers
 * VIRTIO_TEST_F_CAN_PRINT. write() of one native-endian u32 to
 * /dev/virtio_misc submits a request; the answer goes to the kernel log.
 */

#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

#define TUTORIAL_ID		45
#define TUTORIAL_F_CAN_PRINT	0
#define TUTORIAL_MINOR		144

struct tutorial_request {
	__virtio32 arg1;
	char arg2[32];
};

struct tutorial {
	struct miscdevice misc;
	struct virtio_device *vdev;
	struct virtqueue *vq;		/* NULL without CAN_PRINT */
	struct mutex lock;		/* One request at a time */
	struct completion answered;
	struct tutorial_request request;
	__virtio32 ret;
};

static void tutorial_done(struct virtqueue *vq)
{
	struct tutorial *tutorial = vq->vdev->priv;
	unsigned int len;

	if (!virtqueue_get_buf(vq, &len))
		return;
	pr_info("tutorial: virtio response ret is %d\n",
		virtio32_to_cpu(vq->vdev, tutorial->ret));
	complete(&tutorial->answered);
}

static int tutorial_ask(struct tutorial *tutorial, u32 n)
{
	struct scatterlist out, in, *sgs[] = { &out, &in };
	int err;

	tutorial->request.arg1 = cpu_to_virtio32(tutorial->vdev, n);
	strscpy(tutorial->request.arg2, "hello back end!",
		sizeof(tutorial->request.arg2));
	sg_init_one(&out, &tutorial->request, sizeof(tutorial->request));
	sg_init_one(&in, &tutorial->ret, sizeof(tutorial->ret));
	reinit_completion(&tutorial->answered);
	err = virtqueue_add_sgs(tutorial->vq, sgs, 1, 1, tutorial, GFP_KERNEL);
	if (err)
		return err;
	virtqueue_kick(tutorial->vq);
	/* The buffers are the device's until it answers, or is reset. */
	wait_for_completion(&tutorial->answered);
	return 0;
}

static ssize_t tutorial_write(struct file *filp, const char __user *buf,
			      size_t count, loff_t *ppos)
{
	struct tutorial *tutorial = container_of(filp->private_data,
						 struct tutorial, misc);
	u32 n;
	int err;

	if (count != sizeof(n))
		return -EINVAL;
	if (copy_from_user(&n, buf, sizeof(n)))
		return -EFAULT;
	if (!tutorial->vq)
		return -ENODEV;
	mutex_lock(&tutorial->lock);
	err = tutorial_ask(tutorial, n);
	mutex_unlock(&tutorial->lock);
	return err ?: count;
}

static const struct file_operations tutorial_fops = {
	.owner = THIS_MODULE,
	.write = tutorial_write,
};

static int tutorial_probe(struct virtio_device *vdev)
{
	struct tutorial *tutorial;
	int err;

	tutorial = kzalloc(sizeof(*tutorial), GFP_KERNEL);
	if (!tutorial)
		return -ENOMEM;
	mutex_init(&tutorial->lock);
	init_completion(&tutorial->answered);
	tutorial->vdev = vdev;
	vdev->priv = tutorial;
	if (virtio_has_feature(vdev, TUTORIAL_F_CAN_PRINT)) {
		tutorial->vq = virtio_find_single_vq(vdev, tutorial_done, "virtio_test");
		err = PTR_ERR_OR_ZERO(tutorial->vq);
		if (err)
			goto err_free;
	}
	virtio_device_ready(vdev);

	tutorial->misc.minor = TUTORIAL_MINOR;
	tutorial->misc.name = "virtio_misc";
	tutorial->misc.fops = &tutorial_fops;
	err = misc_register(&tutorial->misc);
	if (err)
		goto err_reset;
	pr_info("tutorial: misc register has succeeded\n");
	return 0;

err_reset:
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
err_free:
	kfree(tutorial);
	return err;
}

static void tutorial_remove(struct virtio_device *vdev)
{
	struct tutorial *tutorial = vdev->priv;

	misc_deregister(&tutorial->misc);
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
	kfree(tutorial);
}

static const unsigned int tutorial_features[] = { TUTORIAL_F_CAN_PRINT };

static const struct virtio_device_id tutorial_ids[] = {
	{ TUTORIAL_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, tutorial_ids);

static struct virtio_driver tutorial_driver = {
	.driver.name = "tutorial",
	.driver.owner = THIS_MODULE,
	.feature_table = tutorial_features,
	.feature_table_size = ARRAY_SIZE(tutorial_features),
	.id_table = tutorial_ids,
	.probe = tutorial_probe,
	.remove = tutorial_remove,
};
module_virtio_driver(tutorial_driver);

MODULE_DESCRIPTION("Asks of the virtio test device what the tutorial's driver does");
MODULE_LICENSE("GPL");
