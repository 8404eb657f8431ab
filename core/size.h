/* SPDX-License-Identifier: Apache-2.0 */
/* size.h - sizes as people type and read them. */
#ifndef HOLDFAST_CORE_SIZE_H
#define HOLDFAST_CORE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/*
 * "10G": decimal digits and at most one unit, in powers of 1024: K M G T P E in either case, alone or as "KiB"; "s" sectors of 512 bytes; "b"
 * blocks of 4096; nothing or "B": bytes.  No sign, no fraction, no blanks.
 * -EINVAL: not of that form.  -ERANGE: does not fit.
 */
int size_parse(const char *text, uint64_t *bytes);

#define SIZE_TEXT 24

/* "10 GiB", "1.5 MiB", "512 bytes": the largest unit that fits, one decimal where it is not exact.  Returns `text`. */
const char *size_format(uint64_t bytes, char text[SIZE_TEXT]);

#endif
