/* The provisioning strap: enrolment, and the answer that the factory's CA certifies. */
#include "boot.h"
#include "fuses.h"

#define HELPER_RAM RAM_BASE
#define CHECK_VALUE (WORK_OUTPUT + 64u)
#define NONCE PORT_DATA
#define ANSWER (PORT_DATA + 32u)

/* helper.py. What a block says of helper data is the same whether they are any or not. */
#define HELPER_MAGIC 0x46555046u /* "FPUF" */

static void must(uint32_t status) { MUST(status ^ STATUS_OK, E_ROM_PUF_STORE); /* ROM-PUF-5 */ }

/* The check value of what a helper copy reconstructs to, at `output`. */
static void check_value_of(uint32_t helper, uint32_t output) {
  must(port1(CMD_PUF_RECONSTRUCT, helper));
  must(port2(CMD_KEY_CHECK_VALUE, KEY_UDS, output));
}

/* ROM-PUF-5: two copies of helper data give one secret. Leaves its check value at CHECK_VALUE. */
static uint32_t copies_differ(void) {
  check_value_of(FLASH_BASE + HELPER_A, CHECK_VALUE);
  check_value_of(FLASH_BASE + HELPER_B, WORK_OUTPUT);
  uint32_t magic = (*word_at(FLASH_BASE + HELPER_A) ^ HELPER_MAGIC) | (*word_at(FLASH_BASE + HELPER_B) ^ HELPER_MAGIC);
  return magic | differ(CHECK_VALUE, WORK_OUTPUT, PUF_CHECK_WORDS);
}

static void store_copies(void) {
  MUST(port1(CMD_PUF_ENROL, HELPER_RAM) ^ STATUS_OK, E_ROM_PUF_ENROL); /* ROM-PUF-4 */
  must(port1(CMD_FLASH_ERASE, HELPER_A));
  must(port3(CMD_FLASH_PROGRAM, HELPER_A, HELPER_RAM, HELPER_SIZE));
  must(port1(CMD_FLASH_ERASE, HELPER_B));
  must(port3(CMD_FLASH_PROGRAM, HELPER_B, HELPER_RAM, HELPER_SIZE));
  MUST(copies_differ(), E_ROM_PUF_STORE);
}

/* The Berger word of the check value at CHECK_VALUE. */
static uint32_t zeros_of_check_value(void) {
  uint32_t zeros = 0;
  for (uint32_t at = 0; at != 4u * PUF_CHECK_WORDS; at += 4u)
    for (uint32_t word = ~*word_at(CHECK_VALUE + at); word != 0u; word &= word - 1u) zeros++;
  return zeros;
}

/* ROM-PUF-4: fuses that an interrupted enrolment blew have to fit the helper data that is there. */
static uint32_t foreign_fuses(void) {
  uint32_t foreign = fuse(PUF_CHECK + PUF_CHECK_WORDS) & ~zeros_of_check_value();
  for (uint32_t at = 0; at != PUF_CHECK_WORDS; at++) foreign |= fuse(PUF_CHECK + at) & ~*word_at(CHECK_VALUE + 4u * at);
  return foreign;
}

static void blow_check_value(void) {
  for (uint32_t at = 0; at != PUF_CHECK_WORDS; at++) must(port2(CMD_OTP_BLOW, PUF_CHECK + at, *word_at(CHECK_VALUE + 4u * at)));
  must(port2(CMD_OTP_BLOW, PUF_CHECK + PUF_CHECK_WORDS, zeros_of_check_value()));
  must(port2(CMD_OTP_BLOW, PUF_ENROLLED, PUF_ENROLLED_WORD));
}

void provision_enrol(void) {
  MUST(life_cycle() ^ LC_TEST, E_ROM_PUF_ENROL); /* ROM-PUF-4 */
  uint32_t begun = any_blown(PUF_CHECK, PUF_CHECK_WORDS + 2u);
  if (copies_differ() != 0u) {
    if (begun != 0u) END_BOOT(E_ROM_PUF_ENROL);
    store_copies();
  }
  MUST(foreign_fuses(), E_ROM_PUF_ENROL);
  blow_check_value();
  port_stage(STAGE_PROVISIONED);
  port_stop();
}

/* ROM-PRV-2. */
void provision_answer(void) {
  copy_words(ANSWER, FUSE_AT(CHIP_ID), CHIP_ID_WORDS);
  copy_words(ANSWER + 32u, (uint32_t)boot.idevid_public, 16u);
  uint32_t length = copy_text(WORK_MESSAGE, "fuseline idevid request");
  for (uint32_t at = 0; at != 128u; at += 4u) put_long(WORK_MESSAGE + length + at, long_at(NONCE + at));
  port_sha256(WORK_MESSAGE, length + 128u, WORK_DIGEST);
  MUST(port3(CMD_KEY_SIGN, KEY_IDEVID_KEY, WORK_DIGEST, ANSWER + 96u) ^ STATUS_OK, E_ROM_PROVISION_ANSWER);
  port_stage(STAGE_PROVISIONED);
  port_stop();
}
