/* SPDX-License-Identifier: Apache-2.0 */
/* bug.c - the names of the deliberate mistakes (core/bug.h), and which one is active.  In test programs only. */
#include "core/bug.h"

#include <stddef.h>
#include <string.h>

enum bug bug_active;

static const struct {
	const char *name, *what;
} bugs[BUG_COUNT] = {
	[BUG_NONE] = {"none", "no deliberate mistake"},
/* clang-format off */
#define X(id, bug_name, bug_what) [BUG_##id] = {bug_name, bug_what},
	BUG_LIST(X)
#undef X
	/* clang-format on */
};

const char *bug_name(enum bug bug)
{
	return bugs[bug].name;
}

const char *bug_what(enum bug bug)
{
	return bugs[bug].what;
}

enum bug bug_find(const char *name)
{
	for (unsigned i = 1; i < BUG_COUNT; i++)
		if (strcmp(bugs[i].name, name) == 0)
			return (enum bug)i;
	return BUG_NONE;
}
