/* SPDX-License-Identifier: Apache-2.0 */
/* apart.c - see the header. */
#include "fs/apart.h"

#include <pthread.h>
#include <stdlib.h>

struct apart {
	pthread_t thread;
	pthread_mutex_t mutex; /* a leaf; covers what follows */
	pthread_cond_t changed;
	STAILQ_HEAD(, apart_answer) answers;
	bool ending;
};

void apart_send(struct apart *a, struct apart_answer *answer)
{
	pthread_mutex_lock(&a->mutex);
	STAILQ_INSERT_TAIL(&a->answers, answer, link);
	pthread_cond_signal(&a->changed);
	pthread_mutex_unlock(&a->mutex);
}

/* NULL: the end. */
static struct apart_answer *next(struct apart *a)
{
	struct apart_answer *answer;

	pthread_mutex_lock(&a->mutex);
	while (!(answer = STAILQ_FIRST(&a->answers)) && !a->ending)
		pthread_cond_wait(&a->changed, &a->mutex);
	if (answer)
		STAILQ_REMOVE_HEAD(&a->answers, link);
	pthread_mutex_unlock(&a->mutex);
	return answer;
}

static void *apart_main(void *arg)
{
	struct apart *a = arg;
	struct apart_answer *answer;

	while ((answer = next(a))) {
		answer->send(answer);
		dev_post(answer->q, &answer->sent);
	}
	return NULL;
}

int apart_start(struct apart **out)
{
	struct apart *a = calloc(1, sizeof(*a));
	int err;

	if (!a)
		return -ENOMEM;
	STAILQ_INIT(&a->answers);
	pthread_mutex_init(&a->mutex, NULL);
	pthread_cond_init(&a->changed, NULL);
	err = -pthread_create(&a->thread, NULL, apart_main, a);
	if (err) {
		free(a);
		return err;
	}
	*out = a;
	return 0;
}

void apart_end(struct apart *a)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->mutex);
	a->ending = true;
	pthread_cond_signal(&a->changed);
	pthread_mutex_unlock(&a->mutex);
	pthread_join(a->thread, NULL);
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->mutex);
	free(a);
}
