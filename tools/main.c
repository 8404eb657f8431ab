/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - holdfast VERB: everything about a volume that is neither making, mounting nor checking it.
 *
 * All verbs keep to the same: messages are one line on stderr, results go to stdout, --json means one JSON object (a line each if
 * there are several), exit statuses are those of tool.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limit.h"
#include "core/streams.h"
#include "core/version.h"
#include "tools/tool.h"

static const struct verb *const verbs[] = {
	&verb_info,
	&verb_scrub,
	&verb_stats,
	&verb_undo,
};

static const struct verb *verb_find(const char *name)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(verbs[i]->name, name) == 0)
			return verbs[i];
	return NULL;
}

static void help_all(FILE *out)
{
	fputs("usage: holdfast VERB [options] PATH\n\n", out);
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		fprintf(out, "  %-8s %s\n", verbs[i]->name, verbs[i]->summary);
	fputs("  help     this, or the help of a verb\n"
	      "\n"
	      "Exit status: 0 all is well; 1 something is wrong or could not be done; 2 usage.\n",
	      out);
}

static void help_verb(const struct verb *v)
{
	printf("usage: holdfast %s %s\n\n%s.\n\n%s", v->name, v->synopsis, v->summary, v->help);
}

static int unknown_verb(const char *name)
{
	fprintf(stderr, "holdfast: there is no verb \"%s\"\nTry 'holdfast help'.\n", name);
	return TOOL_USAGE;
}

static int run_help(int argc, char **argv)
{
	if (argc < 3) {
		help_all(stdout);
		return TOOL_OK;
	}
	const struct verb *v = verb_find(argv[2]);

	if (!v)
		return unknown_verb(argv[2]);
	help_verb(v);
	return TOOL_OK;
}

static int run_verb(const struct verb *v, int argc, char **argv)
{
	char name[40];

	for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			help_verb(v);
			return TOOL_OK;
		}
	}
	snprintf(name, sizeof(name), "holdfast %s", v->name);
	argv[1] = name;
	return v->run(argc - 1, argv + 1);
}

static int run(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	const struct verb *v = verb_find(name);

	if (v)
		return run_verb(v, argc, argv);
	if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		return run_help(argc, argv);
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
		puts("holdfast " HOLDFAST_VERSION);
		return TOOL_OK;
	}
	if (*name)
		return unknown_verb(name);
	help_all(stderr);
	return TOOL_USAGE;
}

int main(int argc, char **argv)
{
	/* Those that write to an image do so within what is there. */
	limit_lift();

	int status = streams_reserve() ? run(argc, argv) : TOOL_FOUND;

	/* A result that has not arrived is none. */
	return !streams_finish("holdfast") && status == TOOL_OK ? TOOL_FOUND : status;
}
