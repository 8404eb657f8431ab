/* SPDX-License-Identifier: Apache-2.0 */
/* test_image_lock.c - who gets the lock on an image.  Loop devices are for the tests of real mounts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "core/image_lock.h"

struct image {
	char path[32];
	int fd[2];
};

static int image_make(void **state)
{
	struct image *im = calloc(1, sizeof(*im));

	assert_non_null(im);
	*im = (struct image){.path = "/tmp/test_image_lock.XXXXXX"};
	im->fd[0] = mkstemp(im->path);
	im->fd[1] = open(im->path, O_RDWR | O_CLOEXEC);
	assert_true(im->fd[0] >= 0 && im->fd[1] >= 0);
	*state = im;
	return 0;
}

static int image_drop(void **state)
{
	struct image *im = *state;

	for (unsigned i = 0; i < 2; i++)
		if (im->fd[i] >= 0)
			close(im->fd[i]);
	unlink(im->path);
	free(im);
	return 0;
}

static void test_exclusive(void **state)
{
	struct image *im = *state;
	int backing = 99;

	assert_int_equal(image_lock(im->fd[0], 0, &backing), 0);
	assert_int_equal(backing, -1);
	assert_int_equal(image_lock(im->fd[1], 0, &backing), -EBUSY);
	assert_int_equal(image_lock(im->fd[1], IMAGE_LOCK_SHARED, &backing), -EBUSY);
	close(im->fd[0]);
	im->fd[0] = -1;
	assert_int_equal(image_lock(im->fd[1], 0, &backing), 0);
}

static void test_shared(void **state)
{
	struct image *im = *state;
	int backing;

	assert_int_equal(image_lock(im->fd[0], IMAGE_LOCK_SHARED, &backing), 0);
	assert_int_equal(image_lock(im->fd[1], IMAGE_LOCK_SHARED, &backing), 0);
	close(im->fd[0]);
	im->fd[0] = open(im->path, O_RDWR | O_CLOEXEC);
	assert_int_equal(image_lock(im->fd[0], 0, &backing), -EBUSY);
}

/* From descriptor to descriptor, and from shared to our own and back; with others, and with the file behind a loop device. */
static void test_raise(void **state)
{
	struct image *im = *state, *file;
	int backing, other = open(im->path, O_RDONLY | O_CLOEXEC), third = open(im->path, O_RDONLY | O_CLOEXEC);
	void *second;

	assert_int_equal(image_make(&second), 0);
	file = second;
	assert_int_equal(image_lock(im->fd[0], IMAGE_LOCK_SHARED, &backing), 0);
	assert_int_equal(image_lock_pass(im->fd[0], im->fd[1]), 0);
	/* The first one has nothing any more, the second one has. */
	assert_int_equal(image_lock(other, 0, &backing), -EBUSY);
	close(im->fd[0]);
	im->fd[0] = -1;
	assert_int_equal(image_lock(other, 0, &backing), -EBUSY);
	assert_int_equal(image_lock(other, IMAGE_LOCK_SHARED, &backing), 0);
	assert_int_equal(image_lock_raise(im->fd[1], -1), -EBUSY);
	/* It is shared again: nobody else can have it alone. */
	close(other);
	assert_int_equal(image_lock(third, 0, &backing), -EBUSY);
	assert_int_equal(image_lock_raise(im->fd[1], -1), 0);
	assert_int_equal(image_lock(third, IMAGE_LOCK_SHARED, &backing), -EBUSY);
	image_lock_lower(im->fd[1], -1);
	assert_int_equal(image_lock(third, IMAGE_LOCK_SHARED, &backing), 0);
	close(third);

	assert_int_equal(image_lock(file->fd[0], IMAGE_LOCK_SHARED, &backing), 0);
	assert_int_equal(image_lock(file->fd[1], IMAGE_LOCK_SHARED, &backing), 0);
	assert_int_equal(image_lock_raise(im->fd[1], file->fd[0]), -EBUSY);
	third = open(im->path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(image_lock(third, IMAGE_LOCK_SHARED, &backing), 0);
	close(third);
	close(file->fd[1]);
	file->fd[1] = -1;
	assert_int_equal(image_lock_raise(im->fd[1], file->fd[0]), 0);
	file->fd[1] = open(file->path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(image_lock(file->fd[1], IMAGE_LOCK_SHARED, &backing), -EBUSY);
	image_drop(&second);
}

/* What cannot be had is told at once, and each time: a try leaves a moment without the lock, of which the caller must know. */
static void test_raise_lost(void **state)
{
	struct image *im = *state;
	struct timespec begin, end;
	int backing, third = open(im->path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(image_lock(im->fd[0], IMAGE_LOCK_SHARED, &backing), 0);
	assert_int_equal(image_lock(im->fd[1], IMAGE_LOCK_SHARED, &backing), 0);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	assert_int_equal(image_lock_raise(im->fd[0], -1), -EBUSY);
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_true((end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000 < 500);
	/* That moment, made longer: somebody takes it. */
	assert_int_equal(flock(im->fd[0], LOCK_UN), 0);
	assert_int_equal(flock(im->fd[1], LOCK_UN), 0);
	assert_int_equal(image_lock(third, 0, &backing), 0);
	assert_int_equal(image_lock_raise(im->fd[0], -1), -ENOLCK);
	close(third);
}

static void test_not_mounted(void **state)
{
	const struct image *im = *state;
	char where[64] = "unchanged";

	assert_false(image_is_mounted(im->path, where, sizeof(where)));
	assert_string_equal(where, "unchanged");
	assert_false(image_is_mounted("/nowhere/at/all", NULL, 0));
	assert_false(image_is_claimed(im->path));
	assert_false(image_is_claimed("/nowhere/at/all"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_exclusive, image_make, image_drop),
		cmocka_unit_test_setup_teardown(test_shared, image_make, image_drop),
		cmocka_unit_test_setup_teardown(test_raise, image_make, image_drop),
		cmocka_unit_test_setup_teardown(test_raise_lost, image_make, image_drop),
		cmocka_unit_test_setup_teardown(test_not_mounted, image_make, image_drop),
	};

	return cmocka_run_group_tests_name("image_lock", tests, NULL, NULL);
}
