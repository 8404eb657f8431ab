/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - from a seed to a plan. */
#include "tests/sim/plan.h"

#include <stdlib.h>
#include <string.h>

#include "core/sim_store.h"
#include "fs/fs.h"

#define LIVES_MAX 4u

/* Tiny ones, so that everything is full and every journal wraps all the time; some that leave room. */
static const struct geometry geometries[] = {
	{1024, 128, 512, false, false},  {1024, 128, 4096, false, false}, {1100, 128, 512, false, false},  {1100, 150, 512, false, false},
	{1280, 160, 4096, false, false}, {1536, 128, 512, false, false},  {1536, 256, 512, false, false},  {2048, 128, 512, false, false},
	{2048, 192, 4096, false, false}, {4096, 128, 512, false, false},  {4096, 512, 4096, false, false}, {33000, 300, 512, false, false},
};
static const struct geometry comb_geometries[] = {
	{2560, 160, 512, true, false},
	{2560, 128, 4096, true, false},
	{4096, 256, 512, true, false},
};
/* Devices for those who keep room: with hardly any for others, and with more. */
static const uint32_t roomy[] = {1160, 1280, 1536, 2048};
/* Room is kept for 8, 16 or 64 pages at a time. */
static const uint32_t cached_bytes[] = {32 << 10, 64 << 10, 256 << 10};
static const uint32_t caches[] = {128 << 10, 256 << 10, 1 << 20, 4 << 20, 0};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

/* Small numbers are likely, large ones possible. */
static uint32_t skewed(uint64_t *rng, unsigned bits)
{
	unsigned width = 1 + (unsigned)(sim_random(rng) % bits);

	return 1 + (uint32_t)(sim_random(rng) & ((1u << width) - 1));
}

static uint8_t draw_kind(const struct profile *p, uint64_t *rng)
{
	unsigned sum = 0, at;

	for (unsigned k = 0; k < OP_KINDS; k++)
		sum += p->weight[k];
	at = (unsigned)(sim_random(rng) % sum);
	for (uint8_t k = 0;; k++) {
		if (at < p->weight[k])
			return k;
		at -= p->weight[k];
	}
}

static struct op draw_op(uint8_t kind, uint32_t label, uint64_t *rng)
{
	struct op op = {.kind = kind, .label = label};

	for (unsigned i = 0; i < OP_RANDOMS; i++)
		op.r[i] = sim_random(rng);
	return op;
}

static void draw_boot(struct life *l, uint64_t *rng)
{
	bool cuts = sim_random(rng) % 3 == 0;

	for (unsigned i = 0; i <= BOOT_CUTS; i++) {
		l->settle[i] = sim_random(rng);
		l->torn[i] = sim_random(rng) % 8 == 0;
	}
	for (unsigned i = 0; i < BOOT_CUTS && cuts; i++)
		l->boot_cut[i] = sim_random(rng) % 3 ? skewed(rng, 5) : 0;
	l->look = sim_random(rng) % 8 == 0;
	l->fsck = sim_random(rng) % 4 == 0;
}

static void draw_life(struct plan *p, struct life *l, uint32_t label, uint64_t *rng)
{
	unsigned room = p->profile->ops, n = 4 + (unsigned)(sim_random(rng) % room), cut_at;
	bool cut = sim_random(rng) % 8 != 0, shut = sim_random(rng) % 12 == 0;

	draw_boot(l, rng);
	cut_at = (unsigned)(sim_random(rng) % (n + 1));
	unsigned shut_at = (unsigned)(sim_random(rng) % (n + 1));
	l->op = need(calloc(2 * n + 4, sizeof(*l->op)));
	for (unsigned i = 0; i <= n; i++) {
		if (i == shut_at && shut)
			l->op[l->nops++] = draw_op(OP_SHUTDOWN, label++, rng);
		if (i == cut_at && cut) {
			struct op *op = &l->op[l->nops++];

			*op = draw_op(OP_CUT, label++, rng);
			op->r[0] = skewed(rng, 5);
		}
		/* A life begins with something to work on. */
		if (p->faults && sim_random(rng) % 16 == 0)
			l->op[l->nops++] = draw_op(OP_FAULT, label++, rng);
		if (i == n)
			break;
		uint8_t kind = draw_kind(p->profile, rng);

		l->op[l->nops++] = draw_op(i < 2 && label < 1000 ? OP_CREATE : kind, label, rng);
		label++;
	}
	l->close = sim_random(rng) % 3 == 0;
}

static void draw_geometry(struct plan *p, uint64_t *rng)
{
	switch (p->profile->devices) {
	case DEVICES_COMB:
		p->geo = comb_geometries[sim_random(rng) % COUNT(comb_geometries)];
		return;
	case DEVICES_TINY:
		p->geo = geometries[sim_random(rng) % 3];
		p->geo.used = true;
		return;
	default:
		p->geo = geometries[sim_random(rng) % COUNT(geometries)];
		p->geo.used = sim_random(rng) % 2;
	}
}

/* Whoever keeps room for what is acknowledged needs a volume with some left. */
static void draw_cached(struct plan *p, uint64_t *rng)
{
	uint64_t r = sim_random(rng);

	if (r % (p->profile->devices == DEVICES_TINY ? 2 : 5) && p->profile->weight[OP_CACHED] < 16)
		return;
	p->cached_bytes = cached_bytes[(r >> 8) % COUNT(cached_bytes)];
	if (p->geo.nblocks < 2048)
		p->geo = (struct geometry){roomy[(r >> 16) % COUNT(roomy)], 128, p->geo.sector, false, p->geo.used};
}

/* What is full and what wraps breaks most. */
static const struct profile *draw_profile(uint64_t *rng)
{
	unsigned dice = (unsigned)(sim_random(rng) % 12);

	if (dice < 6)
		return &profiles[dice < 4 ? 0 : dice - 3];
	return &profiles[sim_random(rng) % nprofiles];
}

struct plan *plan_make(uint64_t seed, const struct profile *profile, bool faults)
{
	struct plan *p = need(calloc(1, sizeof(*p)));
	uint64_t rng = seed ^ UINT64_C(0x5eed5eed5eed5eed);

	p->seed = seed;
	p->faults = faults;
	p->profile = draw_profile(&rng);
	if (profile)
		p->profile = profile;
	draw_geometry(p, &rng);
	p->in_order = sim_random(&rng) % 8 == 0;
	p->background = sim_random(&rng) % 2;
	p->cache_bytes = caches[sim_random(&rng) % COUNT(caches)];
	p->flags = sim_random(&rng) % 4 ? 0 : VOLUME_DISCARD;
	p->atime = sim_random(&rng) % 4 ? FS_RELATIME : sim_random(&rng) % 2 ? FS_NOATIME : FS_STRICTATIME;
	p->lazytime = sim_random(&rng) % 4 == 0;
	draw_cached(p, &rng);
	p->nlives = 1 + (unsigned)(sim_random(&rng) % LIVES_MAX);
	p->life = need(calloc(p->nlives, sizeof(*p->life)));
	for (unsigned i = 0; i < p->nlives; i++)
		draw_life(p, &p->life[i], 1000 * i, &rng);
	return p;
}

struct plan *plan_copy(const struct plan *p)
{
	struct plan *copy = need(malloc(sizeof(*copy)));

	*copy = *p;
	copy->life = need(calloc(p->nlives ? p->nlives : 1, sizeof(*p->life)));
	for (unsigned i = 0; i < p->nlives; i++) {
		struct life *l = &copy->life[i];

		*l = p->life[i];
		l->op = need(calloc(l->nops + 1, sizeof(*l->op)));
		memcpy(l->op, p->life[i].op, l->nops * sizeof(*l->op));
	}
	return copy;
}

void plan_free(struct plan *p)
{
	for (unsigned i = 0; i < p->nlives; i++)
		free(p->life[i].op);
	free(p->life);
	free(p);
}
