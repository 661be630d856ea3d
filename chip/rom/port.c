#include "port.h"

uint32_t port_ring(uint32_t command) {
  *word_at(MAILBOX + MAILBOX_COMMAND) = command;
  *word_at(MAILBOX + MAILBOX_STATUS) = STATUS_BUSY;
  *word_at(DOORBELL) = 1u;
  uint32_t status;
  do {
    status = *word_at(MAILBOX + MAILBOX_STATUS);
  } while (status == STATUS_BUSY);
  return status;
}

void port_take_away(uint32_t command, uint32_t a0) {
  uint32_t status = port1(command, a0);
  MUST(status ^ STATUS_OK, E_ROM_LOCK); /* ROM-LOCK-1 */
  MUST(*word_at(MAILBOX + MAILBOX_COMMAND) ^ launder(command), E_ROM_LOCK);
  MUST(*word_at(ARGUMENT(0)) ^ launder(a0), E_ROM_LOCK);
  flow = flow + TOKEN_TAKEN;
}

void port_stage(uint32_t stage) { MUST(port1(CMD_STAGE, stage) ^ STATUS_OK, E_ROM_PORT); /* ROM-FLOW-3 */ }

void port_sha256(uint32_t address, uint32_t length, uint32_t output) {
  MUST(port3(CMD_SHA256, address, length, output) ^ STATUS_OK, E_ROM_PORT); /* ROM-FLOW-3 */
}

void port_stop(void) {
  for (;;) port1(CMD_STOP, 0u);
}

void copy_words(uint32_t to, uint32_t from, uint32_t words) {
  uint32_t end = to + 4u * words;
  while (to + 32u <= end) {
    __asm__ volatile("ldmia %1!, {r2, r3, r4, r5, r6, r8, r9, r10}\n\tstmia %0!, {r2, r3, r4, r5, r6, r8, r9, r10}"
                     : "+r"(to), "+r"(from)::"r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "memory");
  }
  for (; to != end; to += 4u, from += 4u) *word_at(to) = *word_at(from);
}

uint32_t copy_text(uint32_t to, const char *text) {
  uint32_t length = 0;
  for (; text[length] != '\0'; length++) *octet_at(to + length) = (uint8_t)text[length];
  return length;
}

uint32_t differ(uint32_t one, uint32_t other, uint32_t words) {
  uint32_t difference = 0;
  uint32_t at = 0;
  for (; at != words; at++) difference |= *word_at(one + 4u * at) ^ *word_at(other + 4u * at);
  return difference | (launder(at) ^ words);
}

uint32_t differ_backwards(uint32_t one, uint32_t other, uint32_t words) {
  uint32_t same = 0xFFFFFFFFu;
  uint32_t left = words;
  for (; left != 0u; left--) same &= ~*word_at(one + 4u * left - 4u) ^ *word_at(other + 4u * left - 4u);
  return ~(same & ~launder(left));
}
