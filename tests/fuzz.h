/* fuzz.h - what a fuzz target gives to tests/fuzz_main.c (or to libFuzzer, which needs the first
 * function only).
 *
 * A target is tests/fuzz_NAME.c; `make fuzz` builds each with tests/fuzz_main.c and sanitizers.
 * "No crash" is the weakest oracle: targets also check what must hold for accepted input.
 */
#ifndef ALIGN_FUZZ_H
#define ALIGN_FUZZ_H

#include "base.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Feeds one input to the code under test; 0. Aborts where an invariant is broken. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Valid example number i into out (empty before); 0, or -1 when there are no more. */
int fuzz_seed(size_t i, Text *out);

/* Pieces of text worth inserting, ended by NULL. */
extern const char *const fuzz_words[];

/* Makes damage reach further than a checksum or length at the front: called for half of the inputs
 * after mutation. May do nothing. */
void fuzz_repair(uint8_t *data, size_t size);

#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
