/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_control.c - ioctl(2) on the mount: brings a request of ioctl.h to control.h. */
#include "fs/control.h"
#include "fs/fuse_ops.h"

void fuse_control_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
			unsigned flags, const void *in, size_t in_len, size_t out_room)
{
	struct call c = call_of(req);
	char out[CONTROL_MAX];
	size_t len = 0;

	(void)ino;
	(void)arg;
	(void)fi;
	(void)flags;
	if (out_room > sizeof(out))
		out_room = sizeof(out);

	struct control_caller who = {.q = c.q, .uid = fuse_req_ctx(req)->uid};
	int err = control_run(c.glue->control, &who, cmd, in, in_len, out, out_room, &len);

	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_ioctl(req, 0, out, len);
}
