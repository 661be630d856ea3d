/* Facts in the fuses, decoded from the shadow. */
#ifndef FUSES_H
#define FUSES_H

#include "port.h"

#define FUSE_AT(word) (FUSE_SHADOW + 4u * (word))

/* A fuse word, sensed twice (ROM-OTP-3). */
uint32_t fuse(uint32_t word);

/* Difference between the number of zeros in the data words and the Berger word behind them. */
uint32_t berger_difference(uint32_t word, uint32_t words);

/* OR of words: zero if nothing was ever blown there. */
uint32_t any_blown(uint32_t word, uint32_t words);

/* Decoded anew by each call; ends the boot if the words keep no code (ROM-LC-1). */
uint32_t life_cycle(void);

/* Value of a security counter: the highest step in either copy. */
uint32_t counter_value(uint32_t counter);

/* Non-zero if a copy has a hole. */
uint32_t counter_holes(uint32_t counter);

/* One word of the counter's thermometer, both copies together. */
uint32_t counter_steps(uint32_t counter, uint32_t word);

/* Sanity of what every boot relies on. */
void fuses_check(void);

#endif
