/* SPDX-License-Identifier: Apache-2.0 */
/* json.c - JSON out, compact, as RFC 8259 has it. */
#include "core/json.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

/* Length of the UTF-8 sequence at `s`, or 0 if it is none (overlong forms and surrogates included). */
static unsigned utf8_len(const unsigned char *s)
{
	if (s[0] < 0x80)
		return 1;
	unsigned n = s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;

	for (unsigned i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] >= 0x90))
		return 0;
	return n;
}

static void put_text(FILE *out, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	putc('"', out);
	while (*s) {
		unsigned n = utf8_len(s);

		if (n == 0)
			fputs("\\ufffd", out);
		else if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if (*s < 0x20 || *s == 0x7f)
			fprintf(out, "\\u%04x", *s);
		else
			fwrite(s, 1, n, out);
		s += n ? n : 1;
	}
	putc('"', out);
}

static void put_name(struct json *j, const char *name)
{
	uint64_t bit = UINT64_C(1) << j->depth;

	if (j->filled & bit)
		putc(',', j->out);
	j->filled |= bit;
	if (name) {
		put_text(j->out, name);
		putc(':', j->out);
	}
}

static void json_open(struct json *j, const char *name, char c)
{
	put_name(j, name);
	putc(c, j->out);
	assert(j->depth < 63);
	j->filled &= ~(UINT64_C(1) << ++j->depth);
}

static void json_close(struct json *j, char c)
{
	assert(j->depth > 0);
	putc(c, j->out);
	if (--j->depth == 0)
		putc('\n', j->out);
}

void json_object(struct json *j, const char *name)
{
	json_open(j, name, '{');
}

void json_array(struct json *j, const char *name)
{
	json_open(j, name, '[');
}

void json_end_object(struct json *j)
{
	json_close(j, '}');
}

void json_end_array(struct json *j)
{
	json_close(j, ']');
}

void json_string(struct json *j, const char *name, const char *value)
{
	put_name(j, name);
	put_text(j->out, value);
}

void json_u64(struct json *j, const char *name, uint64_t value)
{
	put_name(j, name);
	fprintf(j->out, "%" PRIu64, value);
}

void json_i64(struct json *j, const char *name, int64_t value)
{
	put_name(j, name);
	fprintf(j->out, "%" PRId64, value);
}

void json_bool(struct json *j, const char *name, bool value)
{
	put_name(j, name);
	fputs(value ? "true" : "false", j->out);
}
