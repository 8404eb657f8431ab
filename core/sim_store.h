/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_store.h - the memory of the sim device: sparse, copied on write, and aware of what is volatile.
 *
 * For every sector written since it was last durable the store keeps its versions in the order of writing:
 * the durable one, those between, and the current one.  Each version has the number of the write that made it,
 * which only grows.  For dev_sim.c; not for several threads, though clones may part to different ones.
 */
#ifndef HOLDFAST_CORE_SIM_STORE_H
#define HOLDFAST_CORE_SIM_STORE_H

#include <stdbool.h>
#include <stdint.h>

struct sim_store;

/* What is allocated at once, and so what a hole is made of. */
#define SIM_STORE_PAGE 4096u

/* `size` in bytes, a multiple of `sector` (512 or 4096).  All zeros, all durable. */
int sim_store_create(uint64_t size, uint32_t sector, uint64_t seed, struct sim_store **out);
void sim_store_free(struct sim_store *st);

/* A second store with the same current contents, all durable.  Shares pages until one side writes. */
int sim_store_clone(struct sim_store *st, uint64_t seed, struct sim_store **out);

/* Current contents of any range of bytes. */
void sim_store_read(struct sim_store *st, uint64_t off, void *buf, uint64_t len);

/*
 * Write number `seq` sets one sector; `data` NULL means zeros.  With `durable` the older versions are gone.
 * -ENOMEM leaves the sector as it was.
 */
int sim_store_write(struct sim_store *st, uint64_t sectno, const void *data, bool durable, uint64_t seq);

/* The number of sectors from `sectno` on that were never written; 0 if this one was. */
uint64_t sim_store_hole(struct sim_store *st, uint64_t sectno);

/* A byte, drawn from *state, in a page that was ever written and lies (in part) in [off, off+len); UINT64_MAX: there is none. */
uint64_t sim_store_pick(struct sim_store *st, uint64_t off, uint64_t len, uint64_t *state);

/* Everything up to write number `upto` is durable now. */
void sim_store_commit(struct sim_store *st, uint64_t upto);

/* The power was cut: picks from `seed` which version of each sector is left, and forgets the others. */
void sim_store_settle(struct sim_store *st, uint64_t seed);

/*
 * The power was cut: all writes are left but the last, which is torn behind its first `n` sectors.  Returns how many it has, 0 if
 * nothing was volatile.
 */
uint64_t sim_store_settle_torn(struct sim_store *st, uint64_t n);

/* Changes every version alike. */
void sim_store_flip(struct sim_store *st, uint64_t byte, unsigned bit);
void sim_store_poke(struct sim_store *st, uint64_t off, const void *buf, uint64_t len);

/* The next number of a sequence; see sim_store.c. */
uint64_t sim_random(uint64_t *state);

#endif
