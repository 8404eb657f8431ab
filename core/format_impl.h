/* SPDX-License-Identifier: Apache-2.0 */
/* format_impl.h - shared by the files that implement format.h; nobody else includes it. */
#ifndef HOLDFAST_CORE_FORMAT_IMPL_H
#define HOLDFAST_CORE_FORMAT_IMPL_H

#include <string.h>

#include "core/format.h"

static inline bool bytes_zero(const void *p, size_t len)
{
	const unsigned char *b = p;

	return len == 0 || (b[0] == 0 && memcmp(b, b + 1, len - 1) == 0);
}

/* A pointer that a block of `generation` may hold: in range, not younger than the block. */
static inline bool ptr_is_valid(const struct super *sb, const struct disk_ptr *ptr, uint64_t generation)
{
	return ptr_in_range(sb, ptr) && get32(ptr->pad) == 0 && get64(ptr->generation) != 0 &&
	       get64(ptr->generation) <= generation;
}

#endif
