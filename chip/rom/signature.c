#include "signature.h"

#define DER_INTEGER 2u
#define DER_SEQUENCE 0x30u

/* SEC 2, 2.4.2: order of P-256, most significant word first. */
static const uint32_t order[8] = {0xFFFFFFFFu, 0x00000000u, 0xFFFFFFFFu, 0xFFFFFFFFu,
                                  0xBCE6FAADu, 0xA7179E84u, 0xF3B9CAC2u, 0xFC632551u};

/* ROM-SIG-3: subtracts the order and looks at the borrow. */
uint32_t out_of_range(uint32_t value) {
  uint32_t any = 0;
  uint32_t borrow = 0;
  for (uint32_t word = 8u; word != 0u; word--) {
    uint32_t digit = __builtin_bswap32(*word_at(value + 4u * word - 4u));
    any |= digit;
    borrow = (uint32_t)(((uint64_t)digit - order[word - 1u] - borrow) >> 63);
  }
  return ~spread(any) | ~spread(borrow);
}

/* ROM-SIG-2: X.690 8.3, 10.1. Returns where the integer ends, or 0. */
static uint32_t read_integer(uint32_t at, uint32_t end, uint32_t output) {
  if (end - at < 3u || *octet_at(at) != DER_INTEGER) return 0;
  uint32_t length = *octet_at(at + 1u);
  at += 2u;
  if (length == 0u || length > 33u || length > end - at || *octet_at(at) > 0x7Fu) return 0;
  uint32_t stop = at + length;
  const uint32_t end_of_integer = stop;
  if (*octet_at(at) == 0u && length > 1u) {
    if (*octet_at(at + 1u) < 0x80u) return 0;
    at++;
  }
  if (stop - at > 32u) return 0;
  for (uint32_t word = 0; word != 8u; word++) *word_at(output + 4u * word) = 0;
  for (output += 32u; stop - at >= 4u; stop -= 4u) put_long(output -= 4u, long_at(stop - 4u));
  while (stop != at) *octet_at(--output) = *octet_at(--stop);
  return end_of_integer;
}

uint32_t signature_read(uint32_t at, uint32_t length, uint32_t output) {
  uint32_t end = at + length;
  if (length < 8u || *octet_at(at) != DER_SEQUENCE || *octet_at(at + 1u) != length - 2u) return E_ROM_SIG_ENCODING;
  at = read_integer(at + 2u, end, output);
  if (at == 0u) return E_ROM_SIG_ENCODING;
  at = read_integer(at, end, output + 32u);
  return at == end ? PASSED : E_ROM_SIG_ENCODING;
}
