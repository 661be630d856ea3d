/* The loader's certificate: a template of fixed lengths (loader_certificate.py), filled in and signed. */
#include "boot.h"
#include "fuses.h"
#include "handover.h"

#define CERT(field) (HANDOVER_CERTIFICATE + CERT_##field##_AT)
#define TBS CERT(TBS)
#define POINT_UNCOMPRESSED 4u
#define DIGEST_LOADER WORK_OUTPUT
#define DIGEST_IDEVID (WORK_OUTPUT + 32u)

/* TCG DICE Attestation Architecture 1.1, OperationalFlags; bit 0 is the highest of the first octet. */
#define FLAG_NOT_CONFIGURED (1u << 31)
#define FLAG_NOT_SECURE (1u << 30)
#define FLAG_RECOVERY (1u << 29)
#define FLAG_DEBUG (1u << 28)
#define FLAG_FIXED_WIDTH 1u

static const uint32_t template[CERT_TEMPLATE_WORDS] = CERT_TEMPLATE;

static void put_octets(uint32_t to, uint32_t from, uint32_t octets) {
  uint32_t at = 0;
  for (; at + 4u <= octets; at += 4u) put_long(to + at, long_at(from + at));
  for (; at != octets; at++) *octet_at(to + at) = *octet_at(from + at);
}

/* Four hexadecimal digits at a time: each nibble in an octet of its own, plus '0', plus what lies between '9' and 'a'. */
static uint32_t hex_of(uint32_t half) {
  uint32_t nibbles = (half >> 4 & 0xFu) | (half & 0xFu) << 8 | (half & 0xF000u) << 4 | (half & 0xF00u) << 16;
  uint32_t letters = (nibbles + 0x06060606u) >> 4 & 0x01010101u;
  return nibbles + 0x30303030u + letters * 39u;
}

static void put_hex(uint32_t to, uint32_t from) {
  for (uint32_t at = 0; at != 16u; at++) put_long(to + 4u * at, hex_of(half_at(from + 2u * at)));
}

/* RFC 7093 2, method 1: SHA-256 over the content of the BIT STRING. */
static void key_digests(void) {
  *octet_at(CERT(PUBLIC) - 1u) = POINT_UNCOMPRESSED;
  port_sha256(CERT(PUBLIC) - 1u, 65u, DIGEST_LOADER);
  *octet_at(WORK_MESSAGE + 3u) = POINT_UNCOMPRESSED;
  copy_words(WORK_MESSAGE + 4u, (uint32_t)boot.idevid_public, 16u);
  port_sha256(WORK_MESSAGE + 3u, 65u, DIGEST_IDEVID);
}

static uint32_t operational_flags(void) {
  uint32_t flags = FLAG_FIXED_WIDTH;
  uint32_t state = life_cycle();
  if (state == LC_TEST) flags |= FLAG_NOT_CONFIGURED;
  if (state != LC_PROD) flags |= FLAG_NOT_SECURE;
  if (boot.loader_slot != LOADER_PRIMARY) flags |= FLAG_RECOVERY;
  if (boot.debug != DEBUG_LOCKED) flags |= FLAG_DEBUG;
  return flags;
}

static void fill_in(void) {
  key_digests();
  put_octets(CERT(SERIAL), DIGEST_LOADER, 20u);
  /* RFC 5280 4.1.2.2: positive; with the second highest bit set it always has 20 octets. */
  *octet_at(CERT(SERIAL)) = (uint8_t)((*octet_at(CERT(SERIAL)) & 0x7Fu) | 0x40u);
  put_hex(CERT(ISSUER), FUSE_AT(CHIP_ID));
  put_hex(CERT(SUBJECT), DIGEST_LOADER);
  put_octets(CERT(SUBJECT_ID), DIGEST_LOADER, 20u);
  put_octets(CERT(ISSUER_ID), DIGEST_IDEVID, 20u);
  *octet_at(CERT(SVN)) = (uint8_t)boot.second.counter;
  put_octets(CERT(MEASUREMENT), (uint32_t)boot.second.digest, 32u);
  uint32_t flags = operational_flags();
  put_long(CERT(FLAGS), __builtin_bswap32(flags));
}

/* X.690 8.3 of an unsigned 32-octet number; returns where it ends. */
static uint32_t put_integer(uint32_t to, uint32_t from) {
  uint32_t skip = 0;
  while (skip != 31u && *octet_at(from + skip) == 0u) skip++;
  uint32_t pad = *octet_at(from + skip) >> 7;
  *octet_at(to) = 2u;
  *octet_at(to + 1u) = (uint8_t)(32u - skip + pad);
  *octet_at(to + 2u) = 0;
  put_octets(to + 2u + pad, from + skip, 32u - skip);
  return to + 2u + pad + 32u - skip;
}

/* signatureAlgorithm and signatureValue behind the TBSCertificate, then the length around it all. */
static uint32_t put_signature(void) {
  static const uint8_t algorithm[12] = {0x30, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02};
  uint32_t at = TBS + CERT_TBS_SIZE;
  put_octets(at, (uint32_t)algorithm, sizeof algorithm);
  at += sizeof algorithm;
  uint32_t end = put_integer(put_integer(at + 5u, WORK_SIGNATURE), WORK_SIGNATURE + 32u);
  *octet_at(at) = 0x03u;
  *octet_at(at + 1u) = (uint8_t)(end - at - 2u);
  *octet_at(at + 2u) = 0u;
  *octet_at(at + 3u) = 0x30u;
  *octet_at(at + 4u) = (uint8_t)(end - at - 5u);
  uint32_t content = end - TBS;
  *octet_at(TBS - 4u) = 0x30u;
  *octet_at(TBS - 3u) = 0x82u;
  *octet_at(TBS - 2u) = (uint8_t)(content >> 8);
  *octet_at(TBS - 1u) = (uint8_t)content;
  return content + 4u;
}

/* ROM-DICE-2: a signature made under a fault can give the key away, so it is checked before anybody sees it. */
static void sign(void) {
  port_sha256(TBS, CERT_TBS_SIZE, WORK_DIGEST);
  MUST(port3(CMD_KEY_SIGN, KEY_IDEVID_KEY, WORK_DIGEST, WORK_SIGNATURE) ^ STATUS_OK, E_ROM_DICE_CERTIFICATE);
  copy_words(WORK_KEY, (uint32_t)boot.idevid_public, 16u);
  uint32_t status = port4(CMD_ECDSA_RECOVER, WORK_KEY, WORK_DIGEST, WORK_SIGNATURE, WORK_RECOVERED);
  MUST((status ^ STATUS_OK) | differ(WORK_RECOVERED, WORK_SIGNATURE, 8u), E_ROM_DICE_CERTIFICATE);
}

void loader_keys(void) {
  uint32_t context = WORK_CONTEXT;
  copy_words(context, (uint32_t)boot.second.digest, 8u);
  copy_words(context + 32u, (uint32_t)boot.second.signer, 8u);
  *word_at(context + 64u) = boot.second.counter;
  uint32_t length = copy_text(WORK_LABEL, "loader cdi");
  uint32_t status = port6(CMD_KEY_DERIVE, KEY_IDEVID_CDI, KEY_LOADER_CDI, WORK_LABEL, length, context, 68u);
  MUST(status ^ STATUS_OK, E_ROM_DICE_KEYS); /* ROM-DICE-1 */
  copy_words(HANDOVER_CERTIFICATE, (uint32_t)template, CERT_TEMPLATE_WORDS);
  length = copy_text(WORK_LABEL, "loader key");
  status = port5(CMD_KEY_PAIR, KEY_LOADER_CDI, KEY_LOADER_KEY, WORK_LABEL, length, CERT(PUBLIC));
  MUST(status ^ STATUS_OK, E_ROM_DICE_KEYS);
  STEP(STEP_LOADER_KEYS);
}

void loader_certificate(void) {
  fill_in();
  sign();
  HANDOVER_RECORD->certificate_size = put_signature();
  STEP(STEP_CERTIFICATE);
}
