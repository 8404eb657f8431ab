/* SPDX-License-Identifier: Apache-2.0 */
/* size.c - "10G" to bytes and back. */
#include "core/size.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/format.h"

static const char units[] = "KMGTPE";

/* The unit's factor, or 0. */
static uint64_t unit_factor(const char *unit)
{
	if (unit[0] == '\0' || strcmp(unit, "B") == 0)
		return 1;
	if (strcmp(unit, "s") == 0)
		return 512;
	if (strcmp(unit, "b") == 0)
		return BLOCK_SIZE;
	const char *at = strchr(units, toupper((unsigned char)unit[0]));

	if (!at || (unit[1] != '\0' && strcmp(unit + 1, "iB") != 0))
		return 0;
	return UINT64_C(1) << (10 * (at - units + 1));
}

int size_parse(const char *text, uint64_t *bytes)
{
	uint64_t n = 0;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	bool overflow = false;
	for (; *text >= '0' && *text <= '9'; text++)
		overflow |= __builtin_mul_overflow(n, UINT64_C(10), &n) ||
			    __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n);
	uint64_t factor = unit_factor(text);

	if (!factor)
		return -EINVAL;
	if (overflow || __builtin_mul_overflow(n, factor, &n))
		return -ERANGE;
	*bytes = n;
	return 0;
}

const char *size_format(uint64_t bytes, char text[SIZE_TEXT])
{
	unsigned unit = 0;

	if (bytes < 1024) {
		snprintf(text, SIZE_TEXT, "%" PRIu64 " bytes", bytes);
		return text;
	}
	while (unit + 1 < sizeof(units) - 1 && bytes >> (10 * (unit + 2)) != 0)
		unit++;
	uint64_t one = UINT64_C(1) << (10 * (unit + 1)), whole = bytes / one;
	uint64_t tenths = bytes % one / (one / 10);

	if (bytes % one == 0)
		snprintf(text, SIZE_TEXT, "%" PRIu64 " %ciB", whole, units[unit]);
	else
		snprintf(text, SIZE_TEXT, "%" PRIu64 ".%" PRIu64 " %ciB", whole, tenths > 9 ? 9 : tenths,
			 units[unit]);
	return text;
}
