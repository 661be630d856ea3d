/* A loader in an attacker's hands: does what the table behind its code tells it, and notes what came of it.
 *
 * The table is made by fuseline/lab/chip_attacks/puppet.py, which also reads the notes. Registers are noted as the ROM left
 * them, before anything else. */
#include "probe.h"

#define TABLE (LOADER_CODE + 0x1000u)
#define NOTES (RAM_BASE + LOADER_RAM_SIZE)
#define NOTES_REGISTERS 16u /* words: r0 to r12, lr, PSP, CONTROL */
#define FAULTS (NOTES + 4u * NOTES_REGISTERS)
#define NOTES_ROWS (NOTES + 0x80u)

#define SCB_VTOR 0xE000ED08u /* Armv7-M B3.2.5 */

enum kind { ROW_END, ROW_COMMAND, ROW_LOAD, ROW_STORE, ROW_SCAN };

struct row {
  uint32_t kind;
  uint32_t command; /* or an address */
  uint32_t a[6];
};

struct note {
  uint32_t value; /* status of a command, word that was read, or all of them ORed */
  uint32_t r0;
  uint32_t r1;
  uint32_t faults; /* accesses that did not happen */
};

void probe_reset(void);
void probe_fault(void);
void puppet_main(const uint32_t *registers);

extern uint32_t probe_stack[];

/* Always four octets long, so that `probe_fault` can step over them. */
static uint32_t load(uint32_t address) {
  uint32_t value = 0;
  __asm__ volatile("ldr.w %0, [%1]" : "+r"(value) : "r"(address) : "memory");
  return value;
}

static void store(uint32_t address, uint32_t value) {
  __asm__ volatile("str.w %1, [%0]" : : "r"(address), "r"(value) : "memory");
}

static void command(const struct row *row, struct note *note) {
  volatile uint32_t *argument = word_at(MAILBOX + MAILBOX_ARGUMENTS);
  argument[5] = row->a[5];
  note->value = port_call(row->command, row->a[0], row->a[1], row->a[2], row->a[3], row->a[4]);
  note->r0 = *word_at(MAILBOX + MAILBOX_RESULTS);
  note->r1 = *word_at(MAILBOX + MAILBOX_RESULTS + 4u);
}

static void scan(const struct row *row, struct note *note) {
  uint32_t found = 0;
  for (uint32_t at = 0; at != row->a[0]; at += 4u) found |= load(row->command + at);
  note->value = found;
}

static void obey(const struct row *row, struct note *note) {
  *word_at(FAULTS) = 0;
  switch (row->kind) {
    case ROW_COMMAND: command(row, note); break;
    case ROW_LOAD: note->value = load(row->command); break;
    case ROW_STORE: store(row->command, row->a[0]); break;
    default: scan(row, note); break;
  }
  note->faults = *word_at(FAULTS);
}

void puppet_main(const uint32_t *registers) {
  for (uint32_t at = 0; at != NOTES_REGISTERS; at++) *word_at(NOTES + 4u * at) = registers[at];
  *word_at(SCB_VTOR) = LOADER_CODE;
  port_call(CMD_STAGE, STAGE_LOADER_RUNS, 0, 0, 0, 0);
  struct note *note = (struct note *)NOTES_ROWS;
  for (const struct row *row = (const struct row *)TABLE; row->kind != ROW_END; row++, note++) obey(row, note);
  for (;;) port_call(CMD_STOP, 0, 0, 0, 0, 0);
}

/* Registers as they are, lowest first, on the loader's own stack. */
__attribute__((naked)) void probe_reset(void) {
  __asm__ volatile(
      "sub sp, sp, #8\n\t"
      "stmdb sp!, {r0-r12, lr}\n\t"
      "mrs r0, psp\n\t"
      "str r0, [sp, #56]\n\t"
      "mrs r0, control\n\t"
      "str r0, [sp, #60]\n\t"
      "mov r0, sp\n\t"
      "b puppet_main\n\t");
}

/* Counts, and steps over the four octets of the access that faulted. */
__attribute__((naked)) void probe_fault(void) {
  __asm__ volatile(
      "ldr r1, =%c0\n\t"
      "ldr r2, [r1]\n\t"
      "adds r2, #1\n\t"
      "str r2, [r1]\n\t"
      "mrs r0, msp\n\t"
      "ldr r1, [r0, #24]\n\t"
      "adds r1, #4\n\t"
      "str r1, [r0, #24]\n\t"
      "bx lr\n\t" ::"i"(FAULTS));
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    probe_stack, (void *)probe_reset, (void *)probe_fault, (void *)probe_fault,
    (void *)probe_fault, (void *)probe_fault, (void *)probe_fault};
