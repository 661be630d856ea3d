/* Update reset: the identity of the last boot is still in the key slots, and so it may serve only what that boot would have
 * served (ROM-UPD-1 to 3). */
#include "boot.h"
#include "fuses.h"

#define RECORD (RETENTION + 0x100u)
#define RECORD_MAGIC 0x44505546u /* "FUPD" */

struct record {
  uint32_t magic;
  uint32_t life_cycle;
  uint32_t debug;
  uint32_t key_slot;
  uint32_t idevid_public[16];
  uint32_t mac[8];
};

#define BODY_SIZE ((uint32_t)__builtin_offsetof(struct record, mac))

static struct record taken;

/* The MAC of the record at WORK_MESSAGE, at WORK_OUTPUT. */
static void authenticate(void) {
  uint32_t status = port4(CMD_KEY_HMAC, KEY_IDEVID_CDI, WORK_MESSAGE, BODY_SIZE, WORK_OUTPUT);
  MUST(status ^ STATUS_OK, E_ROM_UPDATE_RECORD); /* ROM-UPD-1 */
}

void update_read(void) {
  copy_words((uint32_t)&taken, RECORD, sizeof taken / 4u);
  copy_words(WORK_MESSAGE, (uint32_t)&taken, BODY_SIZE / 4u);
  authenticate();
  MUST(taken.magic ^ RECORD_MAGIC, E_ROM_UPDATE_RECORD);
  MUST(differ((uint32_t)taken.mac, WORK_OUTPUT, 8u), E_ROM_UPDATE_RECORD);
  MUST_AGAIN(differ_backwards(WORK_OUTPUT, (uint32_t)taken.mac, 8u), E_ROM_UPDATE_RECORD);
  MUST((taken.life_cycle ^ life_cycle()) | (taken.debug ^ boot.debug), E_ROM_UPDATE_STATE); /* ROM-UPD-2 */
  copy_words((uint32_t)boot.idevid_public, (uint32_t)taken.idevid_public, 16u);
  port_take_away(CMD_KEY_CLEAR, KEY_UDS);
  port_take_away(CMD_LOCK, LOCK_PUF);
  STEP(STEP_SECRET);
  STEP(STEP_DEBUG);
  STEP(STEP_IDENTITY);
}

static void write_record(void) {
  taken.magic = RECORD_MAGIC;
  taken.life_cycle = life_cycle();
  taken.debug = boot.debug;
  taken.key_slot = boot.second.key_slot;
  copy_words((uint32_t)taken.idevid_public, (uint32_t)boot.idevid_public, 16u);
  copy_words(WORK_MESSAGE, (uint32_t)&taken, BODY_SIZE / 4u);
  authenticate();
  copy_words((uint32_t)taken.mac, WORK_OUTPUT, 8u);
  copy_words(RECORD, (uint32_t)&taken, sizeof taken / 4u);
}

void update_bind(void) {
  if (boot.reset_reason == RESET_UPDATE) {
    MUST(spread(taken.key_slot ^ boot.first.key_slot), E_ROM_UPDATE_KEY); /* ROM-UPD-3 */
    MUST(spread(taken.key_slot ^ boot.second.key_slot), E_ROM_UPDATE_KEY);
  } else {
    write_record();
  }
  STEP(STEP_BINDING);
}
