/* SPDX-License-Identifier: Apache-2.0 */
/* printable.c - see the header. */
#include "core/printable.h"

#include <stdint.h>

/* Length of the UTF-8 character of two bytes and more that begins here, if it is one and no control character; else 0. */
static unsigned utf8_length(const unsigned char *s)
{
	static const uint32_t least[] = {[2] = 0xa0, [3] = 0x800, [4] = 0x10000};
	unsigned n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4, i;
	uint32_t code = s[0] & (0xffu >> (n + 1));

	if (s[0] < 0xc0 || s[0] > 0xf4)
		return 0;
	for (i = 1; i < n && (s[i] & 0xc0) == 0x80; i++)
		code = code << 6 | (s[i] & 0x3fu);
	return i == n && code >= least[n] ? n : 0;
}

/* Bytes that may be shown as they are; 0: the first one may not. */
static unsigned shown(const unsigned char *s)
{
	unsigned n = utf8_length(s);

	if (n)
		return n;
	return s[0] < 0x20 || (s[0] >= 0x7f && s[0] < 0xa0) ? 0 : 1;
}

void printable_put(FILE *to, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	while (*s) {
		unsigned n = shown(s);

		if (n)
			fwrite(s, 1, n, to);
		else
			fprintf(to, "\\%03o", *s);
		s += n ? n : 1;
	}
}

void printable_make(char *text)
{
	unsigned char *s = (unsigned char *)text;

	while (*s) {
		unsigned n = shown(s);

		if (!n)
			*s = '?';
		s += n ? n : 1;
	}
}
