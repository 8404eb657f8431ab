/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz.c - the limit of memory, and where messages go. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>

/* Of the sanitizers' runtime (sanitizer/allocator_interface.h); not there without them. */
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void *, size_t),
					      void (*free_hook)(const volatile void *)) __attribute__((weak));

#define CHECK_EVERY 256u

/* Of the run under way. */
static struct {
	bool running, hooked;
	size_t before;
	unsigned mallocs;
} heap;

static void on_malloc(const volatile void *p, size_t size)
{
	(void)p;
	if (!heap.running || (size < (64u << 10) && ++heap.mallocs % CHECK_EVERY))
		return;
	if (__sanitizer_get_current_allocated_bytes() <= heap.before + FUZZ_MEMORY)
		return;
	heap.running = false;
	fprintf(stderr, "more than %zu bytes of heap, at an allocation of %zu\n", FUZZ_MEMORY, size);
	abort();
}

static void on_free(const volatile void *p)
{
	(void)p;
}

void fuzz_begin(void)
{
	if (!__sanitizer_install_malloc_and_free_hooks || !__sanitizer_get_current_allocated_bytes)
		return;
	if (!heap.hooked)
		__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
	heap.hooked = true;
	heap.before = __sanitizer_get_current_allocated_bytes();
	heap.running = true;
}

void fuzz_end(void)
{
	heap.running = false;
}

static void emit(void *arg, enum diag_level level, const char *line)
{
	static int verbose = -1;

	(void)arg;
	if (verbose < 0)
		verbose = getenv("FUZZ_VERBOSE") != NULL;
	if (verbose)
		fprintf(stderr, "<%d> %s\n", (int)level, line);
}

const struct diag fuzz_diag = {.emit = emit};
