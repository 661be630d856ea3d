/* A loader that looks around: what it was handed, and what it can still reach. Everything below "try" has to be refused. */
#include "handover.h"
#include "probe.h"

#define UART_DATA (UART0 + 0x0u)
#define UART_STATE (UART0 + 0x4u)
#define UART_CONTROL (UART0 + 0x8u)
#define UART_DIVIDER (UART0 + 0x10u)

static void put(uint32_t character) {
  while ((*word_at(UART_STATE) & 1u) != 0u) {
  }
  *word_at(UART_DATA) = character;
}

static void print(const char *text) {
  for (; *text != '\0'; text++) put((uint8_t)*text);
}

static void print_number(uint32_t number) {
  if (number >= 10u) print_number(number / 10u);
  put('0' + number % 10u);
}

static void print_octets(const volatile void *start, uint32_t octets) {
  const volatile uint8_t *octet = start;
  for (uint32_t at = 0; at != octets; at++) {
    put((uint8_t)"0123456789abcdef"[octet[at] >> 4]);
    put((uint8_t)"0123456789abcdef"[octet[at] & 15u]);
  }
}

static void fact(const char *name, uint32_t value) {
  print(name);
  print(": ");
  print_number(value);
  print("\n");
}

static void print_status(uint32_t status) {
  switch (status) {
    case STATUS_OK: print("ok\n"); break;
    case STATUS_REFUSED: print("refused\n"); break;
    case STATUS_BAD_ARGUMENT: print("bad argument\n"); break;
    default: print("failed\n"); break;
  }
}

static void try(const char *what, uint32_t command, uint32_t a0, uint32_t a1, uint32_t a2) {
  uint32_t status = port_call(command, a0, a1, a2, PORT_DATA + 64u, 0);
  print("try ");
  print(what);
  print(": ");
  print_status(status);
}

/* Zero if the load faults: `probe_fault` steps over it. */
static uint32_t read_carefully(uint32_t address) {
  uint32_t value = 0;
  __asm__ volatile("ldr.w %0, [%1]" : "+r"(value) : "r"(address) : "memory");
  return value;
}

static uint32_t any_left(uint32_t start, uint32_t octets, uint32_t stride) {
  uint32_t left = 0;
  for (uint32_t at = 0; at < octets; at += stride) left |= read_carefully(start + at);
  return left;
}

static void try_memory(void) {
  print("try read puf-rows: ");
  print(any_left(PUF_ROWS, PUF_ROWS_SIZE, 512u) != 0u ? "ok\n" : "nothing\n");
  print("try read rom-ram: ");
  print(any_left(ROM_RAM_BASE, ROM_RAM_SIZE, 4u) != 0u ? "ok\n" : "nothing\n");
}

static void try_everything(void) {
  try_memory();
  try("puf-reconstruct", CMD_PUF_RECONSTRUCT, FLASH_BASE + HELPER_A, 0, 0);
  try("puf-enrol", CMD_PUF_ENROL, RAM_BASE + LOADER_RAM_SIZE, 0, 0);
  try("uds-check-value", CMD_KEY_CHECK_VALUE, KEY_UDS, PORT_DATA, 0);
  try("idevid-cdi-hmac", CMD_KEY_HMAC, KEY_IDEVID_CDI, PORT_DATA, 32u);
  try("idevid-key-sign", CMD_KEY_SIGN, KEY_IDEVID_KEY, PORT_DATA, PORT_DATA + 64u);
  try("blow-key-slot", CMD_OTP_BLOW, KEY_SLOT + 3u * KEY_SLOT_STRIDE, 1u, 0);
  try("erase-helper", CMD_FLASH_ERASE, HELPER_A, 0, 0);
  try("erase-idevid", CMD_FLASH_ERASE, IDEVID, 0, 0);
  try("open-debug", CMD_DEBUG_OPEN, 0, 0, 0);
  try("exec-enable", CMD_EXEC_ENABLE, EXEC_ENABLE_WORD, 0, 0);
}

static void print_handover(volatile struct handover *record) {
  fact("handover", (uint32_t)(record->magic == HANDOVER_MAGIC && record->version == HANDOVER_VERSION));
  fact("life cycle", record->life_cycle);
  fact("debug open", (uint32_t)(record->debug == DEBUG_OPEN));
  fact("fuse counter", record->counters[COUNTER_LOADER]);
  fact("image counter", record->image_counter);
  fact("key slot", record->key_slot);
  fact("recovery", (uint32_t)(record->loader_slot == LOADER_RECOVERY));
  print("measurement: ");
  print_octets(record->measurement, 32u);
  print("\n");
}

/* Signs SHA-256("fuseline probe" || measurement) with the loader's key. */
static void sign_statement(volatile struct handover *record) {
  static const char purpose[] = "fuseline probe";
  volatile uint8_t *message = (volatile uint8_t *)PORT_DATA;
  uint32_t length = 0;
  for (; purpose[length] != '\0'; length++) message[length] = (uint8_t)purpose[length];
  for (uint32_t at = 0; at != 32u; at++) message[length + at] = ((volatile uint8_t *)record->measurement)[at];
  port_call(CMD_SHA256, PORT_DATA, length + 32u, PORT_DATA + 128u, 0, 0);
  uint32_t status = port_call(CMD_KEY_SIGN, KEY_LOADER_KEY, PORT_DATA + 128u, PORT_DATA + 192u, 0, 0);
  print("statement: ");
  if (status == STATUS_OK) {
    print_octets((volatile void *)(PORT_DATA + 192u), 64u);
    print("\n");
  } else {
    print_status(status);
  }
}

void probe_main(void) {
  *word_at(UART_DIVIDER) = 16u;
  *word_at(UART_CONTROL) = 1u;
  port_call(CMD_STAGE, STAGE_LOADER_RUNS, 0, 0, 0, 0);
  print("probe runs\n");
  print_handover(HANDOVER_RECORD);
  sign_statement(HANDOVER_RECORD);
  try_everything();
  port_call(CMD_STOP, 0, 0, 0, 0, 0);
}
