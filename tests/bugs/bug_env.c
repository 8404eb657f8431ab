/* SPDX-License-Identifier: Apache-2.0 */
/* bug_env.c - activates the deliberate mistake that HOLDFAST_BUG names, in a unit test that knows nothing of it. */
#include "core/bug.h"

#include <stdio.h>
#include <stdlib.h>

__attribute__((constructor)) static void activate(void)
{
	const char *name = getenv("HOLDFAST_BUG");

	if (!name)
		return;
	bug_active = bug_find(name);
	if (bug_active == BUG_NONE) {
		fprintf(stderr, "no bug is called '%s'\n", name);
		exit(2);
	}
}
