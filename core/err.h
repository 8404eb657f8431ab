/* SPDX-License-Identifier: Apache-2.0 */
/*
 * err.h - how a layer reports what it cannot say with a return value.
 *
 * Every function of Holdfast returns zero or a negative errno.  Three kinds of wrong stay apart:
 *
 *   -EIO       the device said no;
 *   -EUCLEAN   the bytes on the device are wrong.  Always produced by corrupt(), which says where;
 *   assert     we are wrong.  Asserts stay on in release builds and never look at bytes just read.
 *
 * Code below the programs never prints: it hands a line to the struct diag that its object was
 * given, and the program decides where that goes (stderr, syslog, a test's buffer).
 */
#ifndef HOLDFAST_CORE_ERR_H
#define HOLDFAST_CORE_ERR_H

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef NDEBUG
#error "Holdfast's assertions are part of its promise; build without NDEBUG"
#endif

/* Priorities are syslog(3)'s numbers, so that a daemon can pass them on unchanged. */
enum diag_level { DIAG_ERR = 3, DIAG_WARNING = 4, DIAG_NOTICE = 5, DIAG_INFO = 6 };

/*
 * Where messages go.  `emit` receives one line without a newline; it may be called from any
 * thread, with any lock held, and must not call back into the object that reports.
 */
struct diag {
	void (*emit)(void *arg, enum diag_level level, const char *line);
	void *arg;
};

/* Formats one line and hands it to `d`.  A NULL `d`, or one without `emit`, swallows it. */
void diag(const struct diag *d, enum diag_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Reports damaged bytes (say what and where: block, inode, offset).  Returns -EUCLEAN. */
int corrupt(const struct diag *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* An `emit` that writes "<program>: <line>" to stderr; `arg` is the program's name. */
void diag_to_stderr(void *arg, enum diag_level level, const char *line);

/* What the kernel answers on a FUSE mount whose daemon is gone; the second, if its requests went over io_uring. */
static inline bool err_is_dead_mount(int err)
{
	return err == -ENOTCONN || err == -ECONNABORTED;
}

/* free(3) by cleanup attribute: `auto_free char *s = ...;` */
void err_free_cleanup(void *pointer_to_pointer);
#define auto_free __attribute__((cleanup(err_free_cleanup)))

#endif
