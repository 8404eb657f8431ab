/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - JSON out.  Members and elements get their commas by themselves; nesting up to 64 levels. */
#ifndef HOLDFAST_CORE_JSON_H
#define HOLDFAST_CORE_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	FILE *out;
	uint64_t filled;	/* bit n: the object or array at depth n has a member already */
	unsigned depth;
};

static inline struct json json_make(FILE *out)
{
	return (struct json){.out = out};
}

/* `name` NULL: an element of an array, or the document itself. */
void json_object(struct json *j, const char *name);
void json_array(struct json *j, const char *name);
void json_end_object(struct json *j);
void json_end_array(struct json *j);

/* Bytes that are not UTF-8 come out as U+FFFD. */
void json_string(struct json *j, const char *name, const char *value);
void json_u64(struct json *j, const char *name, uint64_t value);
void json_i64(struct json *j, const char *name, int64_t value);
void json_bool(struct json *j, const char *name, bool value);

#endif
