/* SPDX-License-Identifier: Apache-2.0 */
/* err.c - one line, one place to send it. */
#include "core/err.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/printable.h"

#define LINE_MAX_BYTES 512

static void vdiag(const struct diag *d, enum diag_level level, const char *fmt, va_list ap)
{
	char line[LINE_MAX_BYTES];

	if (!d || !d->emit)
		return;
	vsnprintf(line, sizeof(line), fmt, ap);
	/* Names on a volume may be in it. */
	printable_make(line);
	d->emit(d->arg, level, line);
}

void diag(const struct diag *d, enum diag_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vdiag(d, level, fmt, ap);
	va_end(ap);
}

int corrupt(const struct diag *d, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vdiag(d, DIAG_ERR, fmt, ap);
	va_end(ap);
	return -EUCLEAN;
}

void diag_to_stderr(void *arg, enum diag_level level, const char *line)
{
	(void)level;
	fprintf(stderr, "%s: %s\n", (const char *)arg, line);
}

void err_free_cleanup(void *pointer_to_pointer)
{
	void **p = pointer_to_pointer;

	free(*p);
}
