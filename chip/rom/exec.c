/* The end of the ROM: what it knows is locked, what it was is erased, and main RAM becomes executable. */
#include "boot.h"

/* start.c */
void leave(uint32_t stack, uint32_t entry);

#define LOCKED_FOR_LOADER (LOCK_FUSES_FACTORY | LOCK_FLASH_IDENTITY | LOCK_DEBUG | LOCK_KEY_ROOTS | LOCK_PUF)

#ifndef UNHARDENED
/* Nothing says what is locked, so it is locked twice: by bits in the code, and by bits in memory. */
static const volatile uint32_t locks_again = LOCKED_FOR_LOADER;
static const volatile uint32_t exec_lock_again = LOCK_EXEC;
#endif

/* ROM-LOCK-1. */
void locks_close(void) {
  port_take_away(CMD_KEY_CLEAR, KEY_UDS);
  port_take_away(CMD_KEY_LOCK, KEY_IDEVID_CDI);
  port_take_away(CMD_KEY_LOCK, KEY_IDEVID_KEY);
  port_take_away(CMD_LOCK, LOCKED_FOR_LOADER);
#ifndef UNHARDENED
  port_take_away(CMD_LOCK, locks_again);
#endif
  STEP(STEP_LOCKS);
}

/* ROM-LOCK-2. The ROM does not hold the word: it comes out only if both passes and the main flow left what they leave
 * when nothing was skipped and nothing differed. */
static uint32_t exec_word(void) {
#ifdef UNHARDENED
  return EXEC_ENABLE_WORD;
#else
  uint32_t base = EXEC_ENABLE_WORD ^ VERDICT_1 ^ rotate(VERDICT_2, 11) ^ rotate(FLOW_END, 19);
  return launder(base) ^ boot.first.verdict ^ rotate(boot.second.verdict, 11) ^ rotate(flow, 19);
#endif
}

static void agree(uint32_t one, uint32_t other) { MUST(one ^ other, E_ROM_FAULT_DETECTED); /* ROM-FLOW-1 */ }

void exec_loader(void) {
  agree(boot.first.entry, boot.second.entry);
  agree(boot.first.stack, boot.second.stack);
  MUST(port1(CMD_EXEC_ENABLE, exec_word()) ^ STATUS_OK, E_ROM_EXEC);
  port_take_away(CMD_LOCK, LOCK_EXEC);
#ifndef UNHARDENED
  port_take_away(CMD_LOCK, exec_lock_again);
#endif
  MUST_AGAIN(flow ^ (FLOW_END + 2u * TOKEN_TAKEN), E_ROM_FAULT_DETECTED); /* ROM-FLOW-1 */
  agree(boot.second.entry, long_at(LOADER_RAM + boot.first.header_size + 4u));
  agree(boot.second.stack, long_at(LOADER_RAM + boot.first.header_size));
  port_stage(STAGE_LOADER);
  leave(boot.second.stack, boot.second.entry);
}
