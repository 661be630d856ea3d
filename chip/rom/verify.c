/* One pass of verification. It runs twice (main.c), each time from the copy in RAM and from the fuses. */
#include "fuses.h"
#include "signature.h"

#define SPKI_P256_POINT 27u /* RFC 5480: X || Y begin here */
#define SPKI_ED25519_KEY 12u /* RFC 8410 */
#define COUNTER_MAX 127u

static const uint32_t key_types[][3] = {
    [LC_TEST] = KEY_TYPES_TEST, [LC_DEV] = KEY_TYPES_DEV, [LC_PROD] = KEY_TYPES_PROD, [LC_RMA] = KEY_TYPES_RMA};

static void copy_octets(uint32_t to, uint32_t from, uint32_t words) {
  for (uint32_t at = 0; at != 4u * words; at += 4u) *word_at(to + at) = long_at(from + at);
}

/* ROM-SIG-4. The stated digest is under no signature: it tells damage, not truth. */
static uint32_t check_digest(struct image *image) {
  port_sha256(LOADER_RAM, image->hashed, WORK_DIGEST);
  uint32_t difference = 0;
  for (uint32_t word = 0; word != 8u; word++) {
    image->digest[word] = *word_at(WORK_DIGEST + 4u * word);
    difference |= image->digest[word] ^ long_at(image->at[TLV_SHA256] + 4u * word);
  }
  REQUIRE(&image->verdict, CHECK_DIGEST, difference, image->usage_changed != 0u ? E_ROM_USAGE : E_ROM_DIGEST);
  return PASSED;
}

static uint32_t hash_difference(const struct image *image, uint32_t slot) {
  uint32_t difference = 0;
  uint32_t word = 0;
  for (; word != KEY_SLOT_HASH_WORDS; word++)
    difference |= image->signer[word] ^ fuse(KEY_SLOT + KEY_SLOT_STRIDE * slot + KEY_SLOT_HASH + word);
  return difference | (launder(word) ^ KEY_SLOT_HASH_WORDS);
}

/* ROM-KEY-1. */
static uint32_t find_key_slot(struct image *image) {
  port_sha256(image->at[TLV_PUBKEY], image->length[TLV_PUBKEY], WORK_OUTPUT);
  for (uint32_t word = 0; word != 8u; word++) image->signer[word] = *word_at(WORK_OUTPUT + 4u * word);
  uint32_t slot = 0;
  while (slot != KEY_SLOT_COUNT) {
    uint32_t valid = fuse(KEY_SLOT + KEY_SLOT_STRIDE * slot + KEY_SLOT_VALID) ^ KEY_SLOT_VALID_WORD;
    if ((valid | hash_difference(image, slot)) == 0u) break;
    slot++;
  }
  if (slot == KEY_SLOT_COUNT) return E_ROM_KEY_UNKNOWN;
  image->key_slot = slot;
  return PASSED;
}

/* ROM-KEY-3: the difference to the nearest type that this life cycle takes. */
static uint32_t type_difference(uint32_t type) {
  const uint32_t *types = key_types[life_cycle()];
  for (uint32_t at = 0; at != 3u; at++)
    if (types[at] == type) return types[at] ^ launder(type);
  return 0xFFFFFFFFu;
}

static uint32_t check_key(struct image *image) {
  uint32_t result = find_key_slot(image);
  if (result != PASSED) return result;
  uint32_t base = KEY_SLOT + KEY_SLOT_STRIDE * image->key_slot;
  uint32_t valid = fuse(base + KEY_SLOT_VALID) ^ KEY_SLOT_VALID_WORD;
  REQUIRE_AGAIN(&image->verdict, CHECK_KEY_HASH, spread(hash_difference(image, image->key_slot) | valid), E_ROM_KEY_UNKNOWN);
  REQUIRE_AGAIN(&image->verdict, CHECK_KEY_FUSES, spread(berger_difference(base + KEY_SLOT_HASH, KEY_SLOT_HASH_WORDS)),
          E_ROM_KEY_FUSES); /* ROM-KEY-4 */
  uint32_t revoked = fuse(base + KEY_SLOT_REVOKED_A) | fuse(base + KEY_SLOT_REVOKED_B);
  REQUIRE(&image->verdict, CHECK_KEY_REVOKED, spread(revoked), E_ROM_KEY_REVOKED); /* ROM-KEY-2 */
  image->key_type = fuse(base + KEY_SLOT_TYPE);
  REQUIRE(&image->verdict, CHECK_KEY_TYPE, spread(type_difference(image->key_type)), E_ROM_KEY_TYPE);
  return PASSED;
}

/* Whatever stood there: it is not what the block is about to find. */
static void poison_recovered(void) {
  for (uint32_t at = 0; at != 32u; at += 4u) *word_at(WORK_RECOVERED + at) = ~*word_at(WORK_SIGNATURE + at);
}

static uint32_t recover_ecdsa(struct image *image, uint32_t *status) {
  uint32_t result = signature_read(image->at[TLV_ECDSA], image->length[TLV_ECDSA], WORK_SIGNATURE);
  if (result != PASSED) return result;
  if ((out_of_range(WORK_SIGNATURE) | out_of_range(WORK_SIGNATURE + 32u)) != 0u) return E_ROM_SIG_RANGE;
  copy_octets(WORK_KEY, image->at[TLV_PUBKEY] + SPKI_P256_POINT, 16u);
  poison_recovered();
  *status = port4(CMD_ECDSA_RECOVER, WORK_KEY, WORK_DIGEST, WORK_SIGNATURE, WORK_RECOVERED);
  return PASSED;
}

static uint32_t recover_ed25519(struct image *image, uint32_t *status) {
  copy_octets(WORK_SIGNATURE, image->at[TLV_ED25519], 16u);
  uint32_t any = 0;
  for (uint32_t at = 0; at != 32u; at += 4u) any |= *word_at(WORK_SIGNATURE + at);
  if (any == 0u) return E_ROM_SIG_RANGE;
  copy_octets(WORK_KEY, image->at[TLV_PUBKEY] + SPKI_ED25519_KEY, 8u);
  poison_recovered();
  *status = port5(CMD_ED25519_RECOVER, WORK_KEY, WORK_DIGEST, 32u, WORK_SIGNATURE, WORK_RECOVERED);
  return PASSED;
}

/* ROM-SIG-5: the block says what r must have been; this compares, forwards and backwards. */
static uint32_t check_signature(struct image *image) {
  uint32_t status = STATUS_FAILED;
  uint32_t result = image->at[TLV_ECDSA] != 0u ? recover_ecdsa(image, &status) : recover_ed25519(image, &status);
  if (result != PASSED) return result;
  REQUIRE_AGAIN(&image->verdict, CHECK_SIGNATURE_STATUS, status ^ STATUS_OK, E_ROM_SIGNATURE);
  REQUIRE(&image->verdict, CHECK_SIGNATURE, differ(WORK_RECOVERED, WORK_SIGNATURE, 8u), E_ROM_SIGNATURE);
  REQUIRE_AGAIN(&image->verdict, CHECK_SIGNATURE_AGAIN, differ_backwards(WORK_SIGNATURE, WORK_RECOVERED, 8u), E_ROM_SIGNATURE);
  return PASSED;
}

/* Bits of the fuses' thermometer that the image's counter does not cover. */
static uint32_t steps_not_covered(uint32_t counter) {
  uint32_t left = 0;
  uint32_t word = 0;
  for (; word != COUNTER_WORDS; word++) {
    uint32_t below = 32u * word;
    uint32_t covered = counter <= below ? 0u : counter - below >= 32u ? 0xFFFFFFFFu : (1u << (counter - below)) - 1u;
    left |= counter_steps(COUNTER_LOADER, word) & ~covered;
  }
  return left | (launder(word) ^ COUNTER_WORDS);
}

/* ROM-CNT-1, 2 and 4: once by subtraction and once by the steps themselves, each from its own reading. */
static uint32_t check_counter(struct image *image) {
  REQUIRE(&image->verdict, CHECK_COUNTER_FUSES, counter_holes(COUNTER_LOADER), E_ROM_COUNTER_FUSES);
  image->counter = long_at(image->at[TLV_SEC_CNT]);
  REQUIRE(&image->verdict, CHECK_COUNTER_RANGE, image->counter & ~COUNTER_MAX, E_ROM_COUNTER_RANGE);
  REQUIRE(&image->verdict, CHECK_COUNTER, 0u - (image->counter - counter_value(COUNTER_LOADER)) / 0x80000000u, E_ROM_ROLLBACK);
  REQUIRE_AGAIN(&image->verdict, CHECK_COUNTER_AGAIN, spread(steps_not_covered(long_at(image->at[TLV_SEC_CNT]))), E_ROM_ROLLBACK);
  return PASSED;
}

static uint32_t check_structure(struct image *image) {
  uint32_t result = image_header(image);
  REQUIRE(&image->verdict, CHECK_HEADER, result ^ PASSED, result);
  result = image_protected(image);
  REQUIRE(&image->verdict, CHECK_PROTECTED, result ^ PASSED, result);
  result = image_unprotected(image);
  REQUIRE(&image->verdict, CHECK_UNPROTECTED, result ^ PASSED, result);
  result = image_usage(image);
  REQUIRE(&image->verdict, CHECK_USAGE, result ^ PASSED, result);
  return PASSED;
}

uint32_t verify_pass(struct image *image, uint32_t start) {
  image->verdict = start;
  uint32_t result = check_structure(image);
  if (result != PASSED) return result;
  result = check_digest(image);
  if (result != PASSED) return result;
  result = check_key(image);
  if (result != PASSED) return result;
  result = check_signature(image);
  if (result != PASSED) return result;
  result = check_counter(image);
  if (result != PASSED) return result;
  REQUIRE(&image->verdict, CHECK_ENTRY, image_entry(image), E_ROM_ENTRY);
  REQUIRE(&image->verdict, CHECK_STACK, image_stack(image), E_ROM_STACK);
  return PASSED;
}
