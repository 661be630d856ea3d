/* The loader image: an MCUboot image (bootutil/image.h) that is copied to RAM, and read only there. */
#ifndef IMAGE_H
#define IMAGE_H

#include "port.h"

/* TLVs that may be there, by place. */
enum tlv { TLV_SEC_CNT, TLV_BOOT_RECORD, TLV_USAGE, TLV_SHA256, TLV_PUBKEY, TLV_ECDSA, TLV_ED25519, TLV_COUNT };

/* What one pass establishes. Each pass fills its own, and relies on no other. */
struct image {
  uint32_t header_size;
  uint32_t payload_size;
  uint32_t protected_size;
  uint32_t hashed;            /* octets that the digest covers */
  uint32_t at[TLV_COUNT];     /* address of each value, 0 if absent */
  uint32_t length[TLV_COUNT];
  uint32_t usage_changed;     /* bits in which the image's usage constraints differed from this device */
  uint32_t counter;
  uint32_t key_slot;
  uint32_t key_type;
  uint32_t digest[8];
  uint32_t signer[8];
  uint32_t entry;
  uint32_t stack;
  volatile uint32_t verdict;
};

/* In the header. */
#define HEADER_VERSION (LOADER_RAM + 20u)

/* Copies the image from a slot of the flash; PASSED or an error word. */
uint32_t image_load(uint32_t slot);

/* ROM-HDR-1 to 5, over the copy; PASSED or an error word. */
uint32_t image_header(struct image *image);

/* ROM-TLV-1 to 7; PASSED or an error word. */
uint32_t image_protected(struct image *image);
uint32_t image_unprotected(struct image *image);

/* ROM-USE-1, and overwrites the usage constraints with what the hardware is; PASSED or an error word. */
uint32_t image_usage(struct image *image);

/* Reads entry point and stack; non-zero if one of them is not where it may be. */
uint32_t image_entry(struct image *image);
uint32_t image_stack(struct image *image);

#endif
