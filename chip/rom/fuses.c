#include "fuses.h"

uint32_t fuse(uint32_t word) {
  uint32_t value = *word_at(FUSE_AT(word));
#ifndef UNHARDENED
  if (launder(*word_at(FUSE_AT(word))) != value) END_BOOT(E_ROM_FUSE_READ); /* ROM-OTP-3 */
#endif
  return value;
}

/* Warren, Hacker's Delight 5-1. */
static uint32_t ones(uint32_t value) {
  value -= value >> 1 & 0x55555555u;
  value = (value & 0x33333333u) + (value >> 2 & 0x33333333u);
  value = (value + (value >> 4)) & 0x0F0F0F0Fu;
  return value * 0x01010101u >> 24;
}

uint32_t berger_difference(uint32_t word, uint32_t words) {
  uint32_t zeros = 32u * words;
  uint32_t at = word;
  for (; at != word + words; at++) zeros -= ones(fuse(at));
  return fuse(at) ^ zeros;
}

uint32_t any_blown(uint32_t word, uint32_t words) {
  uint32_t blown = 0;
  for (uint32_t at = word; at != word + words; at++) blown |= fuse(at);
  return blown;
}

/* ROM-LC-1: a state counts only if every state before it is there, in both copies. */
uint32_t life_cycle(void) {
  static const uint32_t code_a[] = LIFE_CYCLE_WORDS_A;
  static const uint32_t code_b[] = LIFE_CYCLE_WORDS_B;
  uint32_t state = LC_BLANK;
  uint32_t broken = 0;
  uint32_t at = 0;
  for (; at != LC_SCRAP; at++) {
    uint32_t a = fuse(LIFE_CYCLE_A + at);
    uint32_t b = fuse(LIFE_CYCLE_B + at);
    if (a == code_a[at] && b == code_b[at]) {
      broken |= state ^ at;
      state = at + 1u;
    } else {
      broken |= a | b;
    }
  }
  MUST(broken | (launder(at) ^ LC_SCRAP), E_ROM_LIFE_CYCLE_CODE);
  return state;
}

static uint32_t steps_at(uint32_t counter, uint32_t copy, uint32_t word) {
  return fuse(COUNTER + COUNTER_STRIDE * counter + COUNTER_WORDS * copy + word);
}

uint32_t counter_steps(uint32_t counter, uint32_t word) {
  return steps_at(counter, 0, word) | steps_at(counter, 1, word);
}

uint32_t counter_value(uint32_t counter) {
  for (uint32_t word = COUNTER_WORDS; word != 0u; word--) {
    uint32_t steps = counter_steps(counter, word - 1u);
    if (steps != 0u) return 32u * word - (uint32_t)__builtin_clz(steps);
  }
  return 0;
}

uint32_t counter_holes(uint32_t counter) {
  uint32_t holes = 0;
  for (uint32_t copy = 0; copy != 2u; copy++) {
    uint32_t below = 0xFFFFFFFFu;
    for (uint32_t word = 0; word != COUNTER_WORDS; word++) {
      uint32_t steps = steps_at(counter, copy, word);
      holes |= (steps & (steps + 1u)) | (steps & spread(~below));
      below = steps;
    }
  }
  return holes;
}

static void check_life_cycle(void) {
  uint32_t state = life_cycle();
  if (state == LC_BLANK) END_BOOT(E_ROM_LIFE_CYCLE_BLANK); /* ROM-LC-2 */
  if (state == LC_SCRAP) END_BOOT(E_ROM_LIFE_CYCLE_SCRAP); /* ROM-LC-3 */
  if (life_cycle() != launder(state)) END_BOOT(E_ROM_FAULT_DETECTED); /* ROM-FLOW-1 */
}

static void check_debug_state(void) {
  uint32_t state = *word_at(SYSTEM + 4u * SYSTEM_DEBUG);
  if (state != DEBUG_LOCKED && (state != DEBUG_OPEN || life_cycle() == LC_PROD)) END_BOOT(E_ROM_DEBUG_STATE); /* ROM-DBG-1 */
}

void fuses_check(void) {
  check_life_cycle();
  check_debug_state();
  MUST(berger_difference(CHIP_ID, CHIP_ID_WORDS), E_ROM_CHIP_ID); /* ROM-OTP-1 */
  if (life_cycle() >= LC_PROD || any_blown(PRODUCT, PRODUCT_WORDS + 1u) != 0u)
    MUST(berger_difference(PRODUCT, PRODUCT_WORDS), E_ROM_PRODUCT); /* ROM-OTP-2 */
  MUST(counter_holes(COUNTER_LOADER), E_ROM_COUNTER_FUSES); /* ROM-CNT-1 */
}
