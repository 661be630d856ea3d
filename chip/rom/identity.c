/* From the PUF to the IDevID key (TCG DICE; the ladder follows Caliptra's). */
#include "boot.h"
#include "fuses.h"

#define CHECK_VALUE_WORDS 4u

static void copy_fuses(uint32_t to, uint32_t word, uint32_t words) {
  for (uint32_t at = 0; at != words; at++) *word_at(to + 4u * at) = fuse(word + at);
}

/* ROM-PUF-2. The block does not tell whether it decoded anything: only the check value does. */
static uint32_t reconstruct(uint32_t helper) {
  MUST(port1(CMD_PUF_RECONSTRUCT, helper) ^ STATUS_OK, E_ROM_PORT); /* ROM-FLOW-3 */
  MUST(port2(CMD_KEY_CHECK_VALUE, KEY_UDS, WORK_OUTPUT) ^ STATUS_OK, E_ROM_PORT);
  return differ(WORK_OUTPUT, FUSE_AT(PUF_CHECK), CHECK_VALUE_WORDS);
}

void identity_secret(void) {
  uint32_t enrolled = fuse(PUF_ENROLLED);
  if (enrolled == 0u) END_BOOT(E_ROM_PUF_NOT_ENROLLED); /* ROM-PUF-1 */
  MUST(enrolled ^ PUF_ENROLLED_WORD, E_ROM_PUF_FUSES);  /* ROM-PUF-3 */
  MUST(berger_difference(PUF_CHECK, PUF_CHECK_WORDS), E_ROM_PUF_FUSES);
  uint32_t difference = reconstruct(FLASH_BASE + HELPER_A);
  if (difference != 0u) difference = reconstruct(FLASH_BASE + HELPER_B);
  MUST(difference, E_ROM_PUF_CHECK);
  MUST_AGAIN(differ_backwards(FUSE_AT(PUF_CHECK), WORK_OUTPUT, CHECK_VALUE_WORDS), E_ROM_PUF_CHECK);
  STEP(STEP_SECRET);
}


/* ROM-PUF-6: after this the rows fault when read, so nothing but the status can be checked. */
static void forget_secret(void) {
  MUST(port0(CMD_PUF_CLEAR) ^ STATUS_OK, E_ROM_PUF_CLEAR);
  MUST(*word_at(MAILBOX + MAILBOX_COMMAND) ^ CMD_PUF_CLEAR, E_ROM_PUF_CLEAR);
  flow = flow + TOKEN_TAKEN;
  port_take_away(CMD_KEY_CLEAR, KEY_UDS);
}

/* The identity holds only in this life cycle and debug state: whoever changes one of them meets another device. */
static void write_context(void) {
  *word_at(WORK_CONTEXT) = life_cycle();
  *word_at(WORK_CONTEXT + 4u) = boot.debug;
  copy_fuses(WORK_CONTEXT + 8u, CHIP_ID, CHIP_ID_WORDS);
}

void identity_derive(void) {
  write_context();
  uint32_t length = copy_text(WORK_LABEL, "idevid cdi");
  uint32_t status = port6(CMD_KEY_DERIVE, KEY_UDS, KEY_IDEVID_CDI, WORK_LABEL, length, WORK_CONTEXT, 8u + 4u * CHIP_ID_WORDS);
  MUST(status ^ STATUS_OK, E_ROM_DICE_KEYS); /* ROM-DICE-1 */
  forget_secret();
  port_stage(STAGE_PUF);
  length = copy_text(WORK_LABEL, "idevid key");
  status = port5(CMD_KEY_PAIR, KEY_IDEVID_CDI, KEY_IDEVID_KEY, WORK_LABEL, length, WORK_OUTPUT);
  MUST(status ^ STATUS_OK, E_ROM_DICE_KEYS);
  copy_words((uint32_t)boot.idevid_public, WORK_OUTPUT, 16u);
  STEP(STEP_IDENTITY);
}
