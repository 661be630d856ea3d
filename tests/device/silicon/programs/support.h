/* What every test program of the chip shares: start-up, console, the command port, forgiven faults. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <stdint.h>

#include "chip.h"

#define WORD(address) (*(volatile uint32_t *)(address))
#define RESULT(index) WORD(MAILBOX + MAILBOX_RESULTS + 4u * (index))
#define SYSTEM_WORD(index) WORD(SYSTEM + 4u * (index))

/* The program; what it returns becomes the exit status. */
uint32_t program(void);

void print(const char *text);
void print_word(const char *name, uint32_t value);
void print_octets(const char *name, uint32_t address, uint32_t length);

/* Asks a block of the chip; returns its status. */
uint32_t ask(uint32_t command, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t a4, uint32_t a5);
void print_status(const char *name, uint32_t status);

/* Try an access that may fault; return whether it went through. */
uint32_t can_read(uint32_t address);
uint32_t can_write(uint32_t address);
uint32_t can_call(uint32_t address);

#endif
