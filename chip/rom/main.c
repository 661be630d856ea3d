/* The main flow. What is demanded at each step: fuseline/device/silicon/rom/requirements.toml. */
#include "boot.h"
#include "console.h"
#include "fuses.h"
#include "signature.h"

struct boot boot;
volatile uint32_t flow;

void rom_main(void);

static uint32_t system_word(uint32_t index) {
  uint32_t value = *word_at(SYSTEM + 4u * index);
  MUST(*word_at(SYSTEM + 4u * index) ^ launder(value), E_ROM_FAULT_DETECTED); /* ROM-FLOW-1 */
  return value;
}

/* ROM-RST-1 to 3. */
static void read_reset(void) {
  uint32_t reason = system_word(SYSTEM_RESET_REASON);
  uint32_t strap = system_word(SYSTEM_STRAP);
  if (reason != RESET_COLD && reason != RESET_WARM && reason != RESET_UPDATE) END_BOOT(E_ROM_RESET_REASON);
  if (strap != STRAP_NORMAL && strap != STRAP_PROVISION && strap != STRAP_DEBUG) END_BOOT(E_ROM_STRAP);
  if (strap != STRAP_NORMAL && reason == RESET_UPDATE) END_BOOT(E_ROM_STRAP);
  MUST(system_word(SYSTEM_REVISION) ^ CHIP_REVISION, E_ROM_REVISION);
  boot.reset_reason = reason;
  boot.strap = strap;
  STEP(STEP_RESET);
}

static void read_fuses(void) {
  fuses_check();
  boot.life_cycle = life_cycle();
  boot.debug = system_word(SYSTEM_DEBUG);
  port_stage(STAGE_FUSES);
  STEP(STEP_FUSES);
}

/* ROM-PRV-1. */
static void begin_provisioning(void) {
  if (boot.life_cycle < LC_TEST || boot.life_cycle > LC_PROD) END_BOOT(E_ROM_PROVISION_STATE);
  if (fuse(PUF_ENROLLED) != PUF_ENROLLED_WORD) provision_enrol();
}

static void establish_identity(void) {
  if (boot.reset_reason == RESET_UPDATE) {
    update_read();
    return;
  }
  if (boot.strap == STRAP_PROVISION) begin_provisioning();
  identity_secret();
  debug_unlock();
  identity_derive();
  if (boot.strap == STRAP_PROVISION) provision_answer();
}

/* Facts that both passes found. */
static void compare_passes(void) {
  uint32_t difference = boot.first.key_slot ^ boot.second.key_slot;
  difference |= boot.first.counter ^ boot.second.counter;
  difference |= boot.first.hashed ^ boot.second.hashed;
  difference |= differ((uint32_t)boot.first.digest, (uint32_t)boot.second.digest, 8u);
  difference |= differ((uint32_t)boot.first.signer, (uint32_t)boot.second.signer, 8u);
  MUST(spread(difference), E_ROM_FAULT_DETECTED); /* ROM-FLOW-1 */
}

static uint32_t try_loader(uint32_t slot) {
  boot.first.verdict = 0;
  boot.second.verdict = 0;
  boot.loader_slot = slot;
  uint32_t result = image_load(slot);
  if (result != PASSED) return result;
  result = verify_pass(&boot.first, VERDICT_START_1);
  if (result != PASSED) return result;
#ifdef UNHARDENED
  copy_words((uint32_t)&boot.second, (uint32_t)&boot.first, sizeof boot.first / 4u);
#else
  result = verify_pass(&boot.second, VERDICT_START_2);
#endif
  return result;
}

static void find_loader(void) {
  boot.primary_refusal = 0;
  uint32_t result = try_loader(LOADER_PRIMARY);
  if (result != PASSED) {
    boot.primary_refusal = result;
    console_report("ROM: primary loader refused, ", result);
    uint32_t recovery = try_loader(LOADER_RECOVERY);
    if (recovery != PASSED) {
      console_report("ROM: recovery loader refused, ", recovery);
      END_BOOT(result);
    }
  }
  compare_passes();
  port_stage(STAGE_VERIFIED);
  STEP(STEP_IMAGE);
}

void rom_main(void) {
  flow = FLOW_START;
  port_stage(STAGE_ROM);
  read_reset();
  read_fuses();
  establish_identity();
  port_stage(STAGE_DICE);
  find_loader();
  update_bind();
  loader_keys();
  loader_certificate();
  handover_write();
  locks_close();
  exec_loader();
  END_BOOT(E_ROM_FAULT_DETECTED);
}

void fail(uint32_t error) {
  console_report("ROM: refused, ", error);
  for (;;) {
    port1(CMD_FAIL, error);
    port1(CMD_FAIL, error);
    __asm__ volatile("" ::: "memory");
  }
}
