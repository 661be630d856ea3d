/* Debug unlock: a challenge in one boot, its response in the next (ROM-DBG-2 to 6). */
#include "boot.h"
#include "fuses.h"
#include "signature.h"

#define RECORD RETENTION
#define RECORD_MAGIC 0x47424446u /* "FDBG" */
#define RECORD_BOOT (RECORD + 4u)
#define RECORD_CHALLENGE (RECORD + 8u)
#define RECORD_MAC (RECORD + 40u)
#define RECORD_WORDS 18u

#define RESPONSE_SPKI_SIZE PORT_DATA
#define RESPONSE_SPKI (PORT_DATA + 4u)
#define SPKI_SIZE 91u
#define SPKI_POINT 27u

static uint32_t boot_count(void) { return *word_at(SYSTEM + 4u * SYSTEM_BOOT_COUNT); }

static void forget_challenge(void) {
  for (uint32_t at = 0; at != 4u * RECORD_WORDS; at += 4u) *word_at(RECORD + at) = 0;
}

/* Purpose, challenge and boot count at WORK_MESSAGE; the MAC at WORK_OUTPUT. Software that runs later can write to retention,
 * but it cannot make this. */
static void authenticate(uint32_t challenge, uint32_t count) {
  uint32_t length = copy_text(WORK_MESSAGE, "fuseline debug challenge");
  copy_words(WORK_MESSAGE + length, challenge, 8u);
  *word_at(WORK_MESSAGE + length + 32u) = count;
  uint32_t status = port4(CMD_KEY_HMAC, KEY_UDS, WORK_MESSAGE, length + 36u, WORK_OUTPUT);
  MUST(status ^ STATUS_OK, E_ROM_DICE_KEYS); /* ROM-DICE-1 */
}

static void challenge(void) {
  MUST(port2(CMD_TRNG_READ, PORT_DATA, 32u) ^ STATUS_OK, E_ROM_PORT); /* ROM-FLOW-3 */
  authenticate(PORT_DATA, boot_count());
  copy_words(RECORD_CHALLENGE, PORT_DATA, 8u);
  copy_words(RECORD_MAC, WORK_OUTPUT, 8u);
  *word_at(RECORD_BOOT) = boot_count();
  *word_at(RECORD) = RECORD_MAGIC;
  copy_words(PORT_DATA + 32u, FUSE_AT(CHIP_ID), CHIP_ID_WORDS);
  port_stop();
}

/* ROM-DBG-3. */
static void check_challenge(uint32_t taken) {
  authenticate(taken + 8u, *word_at(taken + 4u));
  MUST(*word_at(taken + 4u) + 1u - boot_count(), E_ROM_DEBUG_CHALLENGE);
  MUST(differ(taken + 40u, WORK_OUTPUT, 8u), E_ROM_DEBUG_CHALLENGE);
  MUST_AGAIN(differ_backwards(WORK_OUTPUT, taken + 40u, 8u), E_ROM_DEBUG_CHALLENGE);
}

/* ROM-DBG-4: key and signature go to where blocks read, and are judged there. */
static void check_key(void) {
  MUST(*word_at(RESPONSE_SPKI_SIZE) ^ SPKI_SIZE, E_ROM_DEBUG_KEY);
  port_sha256(RESPONSE_SPKI, SPKI_SIZE, WORK_OUTPUT);
  MUST(differ(WORK_OUTPUT, FUSE_AT(DEBUG_AUTHORITY), DEBUG_AUTHORITY_WORDS), E_ROM_DEBUG_KEY);
  MUST_AGAIN(differ_backwards(FUSE_AT(DEBUG_AUTHORITY), WORK_OUTPUT, DEBUG_AUTHORITY_WORDS), E_ROM_DEBUG_KEY);
  for (uint32_t at = 0; at != 64u; at += 4u) {
    *word_at(WORK_KEY + at) = long_at(RESPONSE_SPKI + SPKI_POINT + at);
    *word_at(WORK_SIGNATURE + at) = long_at(RESPONSE_SPKI + SPKI_SIZE + at);
  }
}

/* ROM-DBG-5. */
static void check_response(uint32_t taken) {
  uint32_t length = copy_text(WORK_MESSAGE, "fuseline debug unlock");
  for (uint32_t at = 0; at != 32u; at += 4u) {
    put_long(WORK_MESSAGE + length + at, long_at(taken + 8u + at));
    put_long(WORK_MESSAGE + length + 32u + at, long_at(FUSE_AT(CHIP_ID) + at));
  }
  put_long(WORK_MESSAGE + length + 64u, life_cycle());
  port_sha256(WORK_MESSAGE, length + 68u, WORK_DIGEST);
  MUST(out_of_range(WORK_SIGNATURE) | out_of_range(WORK_SIGNATURE + 32u), E_ROM_DEBUG_SIGNATURE);
  for (uint32_t pass = 0; pass != DEBUG_PASSES; pass++) {
    for (uint32_t at = 0; at != 32u; at += 4u) *word_at(WORK_RECOVERED + at) = ~*word_at(WORK_SIGNATURE + at);
    uint32_t status = port4(CMD_ECDSA_RECOVER, WORK_KEY, WORK_DIGEST, WORK_SIGNATURE, WORK_RECOVERED);
    MUST(status ^ STATUS_OK, E_ROM_DEBUG_SIGNATURE);
    MUST(differ(WORK_RECOVERED, WORK_SIGNATURE, 8u), E_ROM_DEBUG_SIGNATURE);
    MUST_AGAIN(differ_backwards(WORK_SIGNATURE, WORK_RECOVERED, 8u), E_ROM_DEBUG_SIGNATURE);
  }
}

static void check_asked_rightly(void) {
  uint32_t state = life_cycle();
  if ((state != LC_DEV && state != LC_PROD) || boot.debug != DEBUG_LOCKED) END_BOOT(E_ROM_DEBUG_AUTHORITY); /* ROM-DBG-2 */
  MUST(berger_difference(DEBUG_AUTHORITY, DEBUG_AUTHORITY_WORDS), E_ROM_DEBUG_AUTHORITY);
}

static void unlock(void) {
  uint32_t taken[RECORD_WORDS];
  copy_words((uint32_t)taken, RECORD, RECORD_WORDS);
  forget_challenge();
  check_asked_rightly();
  if (taken[0] != RECORD_MAGIC) challenge();
  check_challenge((uint32_t)taken);
  check_key();
  check_response((uint32_t)taken);
  MUST(port0(CMD_DEBUG_OPEN) ^ STATUS_OK, E_ROM_DEBUG_OPEN); /* ROM-DBG-6 */
  boot.debug = *word_at(SYSTEM + 4u * SYSTEM_DEBUG);
  MUST(boot.debug ^ DEBUG_OPEN, E_ROM_DEBUG_OPEN);
}

void debug_unlock(void) {
  if (boot.strap == STRAP_DEBUG) {
    unlock();
  } else {
    forget_challenge();
  }
  STEP(STEP_DEBUG);
}
