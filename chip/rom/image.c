#include "image.h"

#include "fuses.h"

#define IMAGE_MAGIC 0x96F3B83Du
#define FLAG_RAM_LOAD 0x20u
#define HEADER_MIN 0x20u
#define HEADER_MAX 0x400u
#define AREA_PROTECTED 0x6908u
#define AREA_UNPROTECTED 0x6907u
#define AREA_INFO 4u /* struct image_tlv_info: magic, size with itself */
#define TLV_HEADER 4u
#define PAYLOAD_MIN 8u /* initial stack pointer and reset vector */

#define HEADER_LOAD_ADDRESS (LOADER_RAM + 4u)
#define HEADER_SIZE (LOADER_RAM + 8u)
#define HEADER_PROTECTED_SIZE (LOADER_RAM + 10u)
#define HEADER_PAYLOAD_SIZE (LOADER_RAM + 12u)
#define HEADER_FLAGS (LOADER_RAM + 16u)
#define HEADER_PADDING (LOADER_RAM + 28u)

/* ROM-HDR-1 to 5. The order of the bounds is what keeps the sums from wrapping. */
uint32_t image_header(struct image *image) {
  if (long_at(LOADER_RAM) != IMAGE_MAGIC) return E_ROM_NO_IMAGE;
  image->header_size = half_at(HEADER_SIZE);
  image->protected_size = half_at(HEADER_PROTECTED_SIZE);
  image->payload_size = long_at(HEADER_PAYLOAD_SIZE);
  if (image->header_size < HEADER_MIN || image->header_size > HEADER_MAX || (image->header_size & 3u) != 0u)
    return E_ROM_HEADER_SIZE;
  if (long_at(HEADER_FLAGS) != FLAG_RAM_LOAD || long_at(HEADER_PADDING) != 0u) return E_ROM_FLAGS;
  if (long_at(HEADER_LOAD_ADDRESS) != LOADER_RAM) return E_ROM_LOAD_ADDRESS;
  if (image->payload_size < PAYLOAD_MIN || image->payload_size > LOADER_SLOT_SIZE) return E_ROM_IMAGE_SIZE;
  image->hashed = image->header_size + image->payload_size + image->protected_size;
  if (image->hashed > LOADER_SLOT_SIZE - AREA_INFO || image->hashed > LOADER_RAM_SIZE - AREA_INFO) return E_ROM_IMAGE_SIZE;
  return PASSED;
}

static void copy_up_to(uint32_t slot, uint32_t from, uint32_t end) {
  from &= ~3u;
  copy_words(LOADER_RAM + from, FLASH_BASE + slot + from, (end - from + 3u) / 4u);
}

uint32_t image_load(uint32_t slot) {
  struct image image;
  copy_up_to(slot, 0, HEADER_MIN);
  uint32_t result = image_header(&image);
  if (result != PASSED) return result;
  copy_up_to(slot, HEADER_MIN, image.hashed + AREA_INFO);
  uint32_t total = half_at(LOADER_RAM + image.hashed + 2u);
  if (total > LOADER_SLOT_SIZE - image.hashed || total < AREA_INFO) return E_ROM_TLV_UNPROTECTED;
  copy_up_to(slot, image.hashed + AREA_INFO, image.hashed + total);
  return PASSED;
}

/* ROM-TLV-4, ROM-TLV-6: which types each area may hold, and how long each may be. */
static const struct {
  uint16_t area, type, shortest, longest;
} allowed[TLV_COUNT] = {
    [TLV_SEC_CNT] = {AREA_PROTECTED, 0x50, 4, 4},
    [TLV_BOOT_RECORD] = {AREA_PROTECTED, 0x60, 1, 512},
    [TLV_USAGE] = {AREA_PROTECTED, 0xA0, 64, 64},
    [TLV_SHA256] = {AREA_UNPROTECTED, 0x10, 32, 32},
    [TLV_PUBKEY] = {AREA_UNPROTECTED, 0x02, 44, 91},
    [TLV_ECDSA] = {AREA_UNPROTECTED, 0x22, 8, 72},
    [TLV_ED25519] = {AREA_UNPROTECTED, 0x24, 64, 64},
};

static uint32_t take(struct image *image, uint32_t area, uint32_t type, uint32_t at, uint32_t length) {
  uint32_t place = 0;
  while (place != TLV_COUNT && (allowed[place].area != area || allowed[place].type != type)) place++;
  if (place == TLV_COUNT) return E_ROM_TLV_TYPE;
  if (image->at[place] != 0u) return E_ROM_TLV_TWICE;
  if (length < allowed[place].shortest || length > allowed[place].longest) return E_ROM_TLV_LENGTH;
  image->at[place] = at;
  image->length[place] = length;
  return PASSED;
}

static uint32_t walk(struct image *image, uint32_t area, uint32_t at, uint32_t end) {
  while (at != end) {
    if (end - at < TLV_HEADER) return E_ROM_TLV_BOUNDS;
    uint32_t type = half_at(at);
    uint32_t length = half_at(at + 2u);
    at += TLV_HEADER;
    if (length > end - at) return E_ROM_TLV_BOUNDS;
    uint32_t result = take(image, area, type, at, length);
    if (result != PASSED) return result;
    at += length;
  }
  return PASSED;
}

/* ROM-TLV-1. */
uint32_t image_protected(struct image *image) {
  for (uint32_t place = 0; place != TLV_COUNT; place++) image->at[place] = 0;
  uint32_t start = LOADER_RAM + image->header_size + image->payload_size;
  if (image->protected_size == 0u) return E_ROM_COUNTER_MISSING; /* ROM-CNT-3 */
  if (image->protected_size < AREA_INFO || half_at(start) != AREA_PROTECTED || half_at(start + 2u) != image->protected_size)
    return E_ROM_TLV_PROTECTED;
  uint32_t result = walk(image, AREA_PROTECTED, start + AREA_INFO, start + image->protected_size);
  if (result != PASSED) return result;
  return image->at[TLV_SEC_CNT] == 0u ? E_ROM_COUNTER_MISSING : PASSED; /* ROM-CNT-3 */
}

/* ROM-TLV-2, ROM-TLV-7, ROM-SIG-1. */
uint32_t image_unprotected(struct image *image) {
  uint32_t start = LOADER_RAM + image->hashed;
  uint32_t total = half_at(start + 2u);
  if (half_at(start) != AREA_UNPROTECTED || total < AREA_INFO || total > LOADER_SLOT_SIZE - image->hashed)
    return E_ROM_TLV_UNPROTECTED;
  uint32_t result = walk(image, AREA_UNPROTECTED, start + AREA_INFO, start + total);
  if (result != PASSED) return result;
  if (image->at[TLV_ECDSA] == 0u && image->at[TLV_ED25519] == 0u) return E_ROM_UNSIGNED;
  if (image->at[TLV_SHA256] == 0u || image->at[TLV_PUBKEY] == 0u) return E_ROM_TLV_MISSING;
  uint32_t one = image->at[TLV_ED25519] == 0u && image->length[TLV_PUBKEY] == 91u;
  uint32_t other = image->at[TLV_ECDSA] == 0u && image->length[TLV_PUBKEY] == 44u;
  return one != other ? PASSED : E_ROM_UNSIGNED;
}

#define USAGE_FIELDS 15u
#define USAGE_SELECTABLE 0x7FFu /* life cycle, eight words of chip id, product, hardware revision */
#define USAGE_FILLER 0xA5A5A5A5u

static uint32_t hardware_reads(uint32_t field) {
  if (field == 0u) return life_cycle();
  return fuse(field <= CHIP_ID_WORDS ? CHIP_ID + field - 1u : PRODUCT + field - 1u - CHIP_ID_WORDS);
}

/* ROM-USE-1, ROM-USE-2. As OpenTitan's ROM: the digest is made over what the device is, so there is nothing to compare. */
uint32_t image_usage(struct image *image) {
  uint32_t at = image->at[TLV_USAGE];
  image->usage_changed = 0;
  if (at == 0u) return PASSED;
  uint32_t selector = long_at(at);
  if ((selector & ~USAGE_SELECTABLE) != 0u) return E_ROM_USAGE_SELECTOR;
  for (uint32_t field = 0; field != USAGE_FIELDS; field++) {
    uint32_t selected = selector >> field & 1u;
    uint32_t truth = selected != 0u ? hardware_reads(field) : USAGE_FILLER;
    uint32_t difference = long_at(at + 4u + 4u * field) ^ truth;
    if (selected == 0u && difference != 0u) return E_ROM_USAGE_SELECTOR;
    image->usage_changed |= difference;
    put_long(at + 4u + 4u * field, truth);
  }
  return PASSED;
}

/* ROM-RUN-1. */
uint32_t image_entry(struct image *image) {
  uint32_t code = LOADER_RAM + image->header_size;
  image->entry = long_at(code + 4u);
  uint32_t offset = image->entry - 1u - code;
  uint32_t outside = offset >= image->payload_size || offset < PAYLOAD_MIN ? 0xFFFFFFFFu : 0u;
  return outside | ((image->entry & 1u) ^ 1u);
}

/* ROM-RUN-2. The stack grows down, so it may begin at the end of main RAM. */
uint32_t image_stack(struct image *image) {
  image->stack = long_at(LOADER_RAM + image->header_size);
  uint32_t offset = image->stack - RAM_BASE;
  uint32_t outside = offset > RAM_SIZE || offset == 0u ? 0xFFFFFFFFu : 0u;
  return outside | (image->stack & 7u);
}
