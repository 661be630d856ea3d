/* What both programs of this folder need: memory, and the command port. */
#ifndef PROBE_H
#define PROBE_H

#include <stdint.h>

#include "fuseline_chip.h"

#define IMAGE_HEADER_SIZE 0x200u
#define LOADER_CODE (LOADER_RAM + IMAGE_HEADER_SIZE)
#define PORT_DATA (MAILBOX + MAILBOX_DATA)

static inline volatile uint32_t *word_at(uint32_t address) { return (volatile uint32_t *)address; }

void probe_main(void);

static inline uint32_t port_call(uint32_t command, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t a4) {
  volatile uint32_t *argument = word_at(MAILBOX + MAILBOX_ARGUMENTS);
  argument[0] = a0;
  argument[1] = a1;
  argument[2] = a2;
  argument[3] = a3;
  argument[4] = a4;
  *word_at(MAILBOX + MAILBOX_COMMAND) = command;
  *word_at(MAILBOX + MAILBOX_STATUS) = STATUS_BUSY;
  *word_at(DOORBELL) = 1u;
  uint32_t status;
  do {
    status = *word_at(MAILBOX + MAILBOX_STATUS);
  } while (status == STATUS_BUSY);
  return status;
}

#endif
