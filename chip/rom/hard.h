/* Defences against faults: a skipped instruction, a flipped bit, a load that gives zero.
 *
 * - No yes or no: a check leaves the difference of what it compared, 0 if all is well, and the difference is folded into a
 *   word together with the check's own token. Main RAM becomes executable by a word that is the sum of all folded words
 *   (exec.c), so a check that was skipped is missed there even if its branch was skipped too.
 * - Whatever decides is done twice, from the start, and each pass has its own word.
 * - `launder` hides from the compiler that two values are equal: it would remove the second check.
 *
 * UNHARDENED leaves all of it out and checks as an ordinary boot loader does. It exists for campaigns, which must find ways
 * into that build, or they are broken.
 */
#ifndef HARD_H
#define HARD_H

#include <stdint.h>

#include "rom_errors.h"

/* What a check returns that found nothing. As far from zero, from all ones and from every error word as it gets. */
#define PASSED 0x5AC3966Du

static inline uint32_t launder(uint32_t value) {
  __asm__ volatile("" : "+r"(value));
  return value;
}

static inline uint32_t rotate(uint32_t value, uint32_t by) { return value >> by | value << (32u - by); }

/* All ones if any bit is set, so that no single flipped bit makes a difference vanish. */
static inline uint32_t spread(uint32_t difference) {
  return 0u - ((launder(difference) | (0u - launder(difference))) >> 31);
}

/* Knuth, The Art of Computer Programming 3, 6.4: the golden ratio times 2^32; multiples of it are far apart. */
#define TOKEN(check) (((uint32_t)(check) + 1u) * 0x9E3779B1u)
#define TOKENS(count) (0x9E3779B1u * ((uint32_t)(count) * ((uint32_t)(count) + 1u) / 2u))

/* How the main flow came here: every step adds its token, every difference is mixed in. */
extern volatile uint32_t flow;

/* Ends the boot with an error word. Written so that a skipped call, or a skipped return from it, meets another one. */
void fail(uint32_t error);
#define END_BOOT(error)                                                   \
  do {                                                                    \
    fail(error);                                                          \
    fail(error);                                                          \
    __asm__ volatile("udf #1\n\tudf #2\n1: b 1b\n\tb 1b" ::: "memory");   \
    __builtin_unreachable();                                              \
  } while (0)

#ifdef UNHARDENED

#define REQUIRE(verdict, check, difference, error) \
  do {                                             \
    (void)(verdict);                               \
    if ((difference) != 0u) return (error);        \
  } while (0)
#define MUST(difference, error)                \
  do {                                         \
    if ((difference) != 0u) fail(error);       \
  } while (0)
#define REQUIRE_AGAIN(verdict, check, difference, error) ((void)(difference))
#define MUST_AGAIN(difference, error) ((void)(difference))
#define STEP(step) ((void)0)
#define DEBUG_PASSES 1u

#else

/* In a function that returns PASSED or an error word. */
#define REQUIRE(verdict, check, difference, error)            \
  do {                                                        \
    uint32_t found_ = launder(difference);                    \
    *(verdict) = (*(verdict) ^ found_) + TOKEN(check);        \
    if (launder(found_) != 0u) return (error);                \
  } while (0)
/* Where an error ends the boot: twice, and the difference stays in the flow. */
#define MUST(difference, error)                               \
  do {                                                        \
    uint32_t found_ = launder(difference);                    \
    flow = flow ^ found_;                                     \
    if (launder(found_) != 0u) END_BOOT(error);               \
    if (launder(found_) != 0u) END_BOOT(error);               \
  } while (0)
/* What a build without defences leaves out: a second look at what was looked at. */
#define REQUIRE_AGAIN REQUIRE
#define MUST_AGAIN MUST
#define STEP(step) (flow = flow + TOKEN(step))
#define DEBUG_PASSES 2u

#endif

/* Steps of the main flow; each is taken exactly once in every boot that reaches the loader. */
enum step {
  STEP_RESET,
  STEP_FUSES,
  STEP_DEBUG,
  STEP_SECRET,
  STEP_IDENTITY,
  STEP_IMAGE,
  STEP_BINDING,
  STEP_LOADER_KEYS,
  STEP_CERTIFICATE,
  STEP_LOCKS,
  STEP_COUNT
};
/* What is taken away before main RAM can be executed: PUF and device secret (identity.c, update.c), five more in exec.c. */
#define TAKEN_AWAY 7u
#define TOKEN_TAKEN 0x6C0F5B27u
#define FLOW_START 0xB70E1A35u
#define FLOW_END (FLOW_START + TOKENS(STEP_COUNT) + TAKEN_AWAY * TOKEN_TAKEN)

/* Checks of one pass over an image, in order. */
enum check {
  CHECK_HEADER,
  CHECK_PROTECTED,
  CHECK_UNPROTECTED,
  CHECK_USAGE,
  CHECK_DIGEST,
  CHECK_KEY_HASH,
  CHECK_KEY_FUSES,
  CHECK_KEY_REVOKED,
  CHECK_KEY_TYPE,
  CHECK_SIGNATURE_STATUS,
  CHECK_SIGNATURE,
  CHECK_SIGNATURE_AGAIN,
  CHECK_COUNTER_FUSES,
  CHECK_COUNTER_RANGE,
  CHECK_COUNTER,
  CHECK_COUNTER_AGAIN,
  CHECK_ENTRY,
  CHECK_STACK,
  CHECK_COUNT
};
#define VERDICT_START_1 0x1F8C5A93u
#define VERDICT_START_2 0xD2406BEEu
#define VERDICT_1 (VERDICT_START_1 + TOKENS(CHECK_COUNT))
#define VERDICT_2 (VERDICT_START_2 + TOKENS(CHECK_COUNT))

#endif
