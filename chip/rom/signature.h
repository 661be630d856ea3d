/* Signature, key and counter of an image: everything that decides. */
#ifndef SIGNATURE_H
#define SIGNATURE_H

#include "image.h"

/* Reads a DER ECDSA signature into r || s of 32 octets each; PASSED or an error word. */
uint32_t signature_read(uint32_t at, uint32_t length, uint32_t output);

/* Non-zero unless 0 < value < order of P-256; value: 32 octets, big-endian. */
uint32_t out_of_range(uint32_t value);

/* One whole pass; PASSED or an error word, and leaves its word in image->verdict. */
uint32_t verify_pass(struct image *image, uint32_t start);

#endif
