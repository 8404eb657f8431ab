/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tsan.h - what the kernel does in memory, told to ThreadSanitizer.  Nothing in any other build.
 *
 * The sanitizer sees neither that io_uring reads and writes buffers on its own, nor that a completion comes after its
 * submission.  So whoever hands memory to a ring says so: the memory is then read or written in the sanitizer's eyes, by this
 * thread at this moment, and it finds others who use it without being ordered before or after.
 */
#ifndef HOLDFAST_CORE_TSAN_H
#define HOLDFAST_CORE_TSAN_H

#include <sys/uio.h>

#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#endif

#ifdef TSAN
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
void __tsan_read_range(void *addr, long size);
void __tsan_write_range(void *addr, long size);

/* From here on `obj` is the kernel's. */
static inline void tsan_give(const void *obj)
{
	__tsan_release((void *)obj);
}

/* It has come back: all that was done before it was given is before all that is done now, whatever the threads. */
static inline void tsan_take(const void *obj)
{
	__tsan_acquire((void *)obj);
}

/* The kernel reads, or has written, these buffers. */
static inline void tsan_reads(const struct iovec *iov, int n)
{
	for (int i = 0; i < n; i++)
		__tsan_read_range(iov[i].iov_base, (long)iov[i].iov_len);
}

static inline void tsan_wrote(const struct iovec *iov, int n)
{
	for (int i = 0; i < n; i++)
		__tsan_write_range(iov[i].iov_base, (long)iov[i].iov_len);
}
#else
static inline void tsan_give(const void *obj)
{
	(void)obj;
}

static inline void tsan_take(const void *obj)
{
	(void)obj;
}

static inline void tsan_reads(const struct iovec *iov, int n)
{
	(void)iov;
	(void)n;
}

static inline void tsan_wrote(const struct iovec *iov, int n)
{
	(void)iov;
	(void)n;
}
#endif

#endif
