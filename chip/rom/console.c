/* UART0 of mps2-an386 (Arm CMSDK APB UART): a line when the ROM refuses; a boot that succeeds is silent. */
#include "console.h"

#include "port.h"

#define UART_DATA (UART0 + 0x0u)
#define UART_STATE (UART0 + 0x4u)
#define UART_CONTROL (UART0 + 0x8u)
#define UART_DIVIDER (UART0 + 0x10u)
#define UART_FULL 1u
#define UART_TRANSMIT 1u

static void put(uint32_t character) {
  while ((*word_at(UART_STATE) & UART_FULL) != 0u) {
  }
  *word_at(UART_DATA) = character;
}

static void put_hex(uint32_t word) {
  for (uint32_t shift = 32u; shift != 0u; shift -= 4u) {
    uint32_t digit = word >> (shift - 4u) & 15u;
    put(digit < 10u ? '0' + digit : 'a' + digit - 10u);
  }
}

void console_report(const char *text, uint32_t error) {
  *word_at(UART_DIVIDER) = 16u; /* the smallest that the UART takes */
  *word_at(UART_CONTROL) = UART_TRANSMIT;
  for (; *text != '\0'; text++) put((uint8_t)*text);
  put_hex(error);
  put('\n');
}
