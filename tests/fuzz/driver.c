/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.c - runs a target over files, without libFuzzer: what was found once is looked at in every build.
 *
 *	plain_x FILE|DIRECTORY...	with "-" for the empty input
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_ROOM (1u << 20)

static int run_file(const char *path, uint8_t *buf)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "rb") : NULL;
	size_t len = 0;

	if (!f && strcmp(path, "-")) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return 1;
	}
	if (f) {
		len = fread(buf, 1, INPUT_ROOM, f);
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

/* Not of directories in it.  An empty one is an error: nothing would have been tested. */
static int run_dir(const char *path, uint8_t *buf)
{
	struct dirent **list;
	int n = scandir(path, &list, NULL, alphasort), failed = 0, run = 0;

	for (int i = 0; i < n; i++) {
		char file[PATH_MAX];

		if (list[i]->d_name[0] != '.') {
			snprintf(file, sizeof(file), "%s/%s", path, list[i]->d_name);
			failed |= run_file(file, buf);
			run++;
		}
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	if (!run)
		fprintf(stderr, "%s: no files\n", path);
	return failed || !run;
}

static int run_arg(const char *arg, uint8_t *buf)
{
	struct stat st;

	return stat(arg, &st) == 0 && S_ISDIR(st.st_mode) ? run_dir(arg, buf) : run_file(arg, buf);
}

int main(int argc, char **argv)
{
	uint8_t *buf = malloc(INPUT_ROOM);
	int failed = buf ? 0 : 1;

	for (int i = 1; i < argc && buf; i++)
		failed |= run_arg(argv[i], buf);
	free(buf);
	return failed;
}
