/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz.h - what all fuzz targets share.
 *
 * A target is LLVMFuzzerTestOneInput() and nothing else, so that it runs under libFuzzer, and as a plain program over files
 * (driver.c).  What counts as a failure: whatever the sanitizers see, an assert, a time limit, more than FUZZ_MEMORY bytes of
 * heap in one run (with the sanitizers), and I/O outside the device, which dev_submit() asserts.
 */
#ifndef HOLDFAST_TESTS_FUZZ_FUZZ_H
#define HOLDFAST_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a small volume may take of memory, whatever it says of itself.  The device is in memory too. */
#define FUZZ_MEMORY ((size_t)64 << 20)

/* Around the work on one input. */
void fuzz_begin(void);
void fuzz_end(void);

/* Takes what is reported; FUZZ_VERBOSE=1 in the environment shows it. */
extern const struct diag fuzz_diag;

#endif
