/* The command port, and where the ROM keeps what blocks read and write. */
#ifndef PORT_H
#define PORT_H

#include "fuseline_chip.h"
#include "hard.h"

static inline volatile uint32_t *word_at(uint32_t address) { return (volatile uint32_t *)address; }
static inline volatile uint8_t *octet_at(uint32_t address) { return (volatile uint8_t *)address; }

#define PORT_DATA (MAILBOX + MAILBOX_DATA)
#define ARGUMENT(n) (MAILBOX + MAILBOX_ARGUMENTS + 4u * (n))
#define RESULT(n) (MAILBOX + MAILBOX_RESULTS + 4u * (n))

/* Work space for blocks, in the mailbox's buffer behind what a tester may leave there. Two places that a check compares lie
 * more than one address bit apart. */
#define WORK_KEY (PORT_DATA + 0x404u)
#define WORK_DIGEST (PORT_DATA + 0x4d0u)
#define WORK_SIGNATURE (PORT_DATA + 0x588u)
#define WORK_RECOVERED (PORT_DATA + 0x63cu)
#define WORK_CONTEXT (PORT_DATA + 0x700u)
#define WORK_LABEL (PORT_DATA + 0x7c0u)
#define WORK_MESSAGE (PORT_DATA + 0x800u)
#define WORK_OUTPUT (PORT_DATA + 0x9a4u)

struct unaligned_half {
  uint16_t half;
} __attribute__((packed));
struct unaligned_word {
  uint32_t word;
} __attribute__((packed));

/* Memory that may not be aligned. */
static inline uint32_t half_at(uint32_t address) { return ((volatile struct unaligned_half *)address)->half; }
static inline uint32_t long_at(uint32_t address) { return ((volatile struct unaligned_word *)address)->word; }
static inline void put_long(uint32_t address, uint32_t value) { ((volatile struct unaligned_word *)address)->word = value; }

/* Rings, and returns the status. */
uint32_t port_ring(uint32_t command);

static inline uint32_t port0(uint32_t command) { return port_ring(command); }

static inline uint32_t port1(uint32_t command, uint32_t a0) {
  *word_at(ARGUMENT(0)) = a0;
  return port_ring(command);
}

static inline uint32_t port2(uint32_t command, uint32_t a0, uint32_t a1) {
  *word_at(ARGUMENT(1)) = a1;
  return port1(command, a0);
}

static inline uint32_t port3(uint32_t command, uint32_t a0, uint32_t a1, uint32_t a2) {
  *word_at(ARGUMENT(2)) = a2;
  return port2(command, a0, a1);
}

static inline uint32_t port4(uint32_t command, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3) {
  *word_at(ARGUMENT(3)) = a3;
  return port3(command, a0, a1, a2);
}

static inline uint32_t port5(uint32_t command, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t a4) {
  *word_at(ARGUMENT(4)) = a4;
  return port4(command, a0, a1, a2, a3);
}

static inline uint32_t port6(uint32_t command, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t a4,
                             uint32_t a5) {
  *word_at(ARGUMENT(5)) = a5;
  return port5(command, a0, a1, a2, a3, a4);
}

/* Takes something away until the next reset, and makes sure that it was this that the block was asked for. */
void port_take_away(uint32_t command, uint32_t a0);

void port_stage(uint32_t stage);

/* SHA-256 of memory that blocks reach. */
void port_sha256(uint32_t address, uint32_t length, uint32_t output);

/* Ends the run with exit status 0. */
void port_stop(void);

/* Whole words. Blocks reach neither ROM nor the ROM's RAM, so what they shall read is copied to them. */
void copy_words(uint32_t to, uint32_t from, uint32_t words);

/* Copies a text without its final zero; returns its length. */
uint32_t copy_text(uint32_t to, const char *text);

/* OR of the differences of two areas of whole words, and the same read backwards by other means. */
uint32_t differ(uint32_t one, uint32_t other, uint32_t words);
uint32_t differ_backwards(uint32_t one, uint32_t other, uint32_t words);

#endif
