/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.c - runs a target over files, without libFuzzer: what was found once is looked at in every build.
 *
 *	fuzz_x FILE...	with "-" for the empty input
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUT (1u << 20)

static int run_file(const char *path, uint8_t *buf)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "rb") : NULL;
	size_t len = 0;

	if (!f && strcmp(path, "-")) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return 1;
	}
	if (f) {
		len = fread(buf, 1, MAX_INPUT, f);
		fclose(f);
	}
	/* In memory of its own size, so that reading beyond it is seen. */
	uint8_t *data = malloc(len ? len : 1);

	if (!data)
		return 1;
	memcpy(data, buf, len);
	printf("%s\n", path);
	fflush(stdout);
	(void)LLVMFuzzerTestOneInput(data, len);
	free(data);
	return 0;
}

int main(int argc, char **argv)
{
	uint8_t *buf = malloc(MAX_INPUT);
	int failed = buf ? 0 : 1;

	for (int i = 1; i < argc && buf; i++)
		failed |= run_file(argv[i], buf);
	free(buf);
	return failed;
}
