/* The boot record at HANDOVER. The parser is fuseline/device/silicon/handover.py. All words are little-endian. */
#ifndef HANDOVER_H
#define HANDOVER_H

#include <stdint.h>

#include "certificate_template.h"
#include "fuseline_chip.h"

#define HANDOVER_MAGIC 0x4F484C46u /* "FLHO" */
#define HANDOVER_VERSION 1u

struct handover {
  uint32_t magic;
  uint32_t version;
  uint32_t size; /* octets of this struct */
  uint32_t life_cycle;
  uint32_t debug;
  uint32_t reset_reason;
  uint32_t boot_count;
  uint32_t watchdog_reset;
  uint32_t chip_revision;
  uint32_t counters[3]; /* in the fuses */
  uint32_t image_counter;
  uint32_t key_slot;
  uint32_t key_type;
  uint32_t loader_slot;     /* offset in flash */
  uint32_t primary_refusal; /* error word, or 0 */
  uint32_t loader_version[2]; /* as in the image header */
  uint32_t header_size;
  uint32_t payload_size;
  uint32_t chip_id[8];
  uint32_t product[2];      /* id, hardware revision */
  uint32_t measurement[8];
  uint32_t signer[8];
  uint32_t idevid_public[16]; /* X || Y */
  uint32_t certificate_size;
  uint8_t certificate[CERTIFICATE_MAX]; /* from CERT_PAD on, so that the public key begins at a whole word */
};

#define HANDOVER_RECORD ((volatile struct handover *)HANDOVER)
#define HANDOVER_CERTIFICATE (HANDOVER + (uint32_t)__builtin_offsetof(struct handover, certificate))

#endif
