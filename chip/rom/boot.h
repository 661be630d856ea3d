/* What the main flow knows about this boot. */
#ifndef BOOT_H
#define BOOT_H

#include "image.h"

struct boot {
  uint32_t reset_reason;
  uint32_t strap;
  uint32_t debug;
  uint32_t life_cycle;
  uint32_t loader_slot;     /* offset in flash of the loader that was taken */
  uint32_t primary_refusal; /* why the primary loader was passed over, 0 if it was not */
  uint32_t idevid_public[16];
  struct image first;       /* what the first pass established */
  struct image second;      /* and what the second */
};

extern struct boot boot;

/* The device secret from the PUF, checked against the fuses, into KEY_UDS; then the rows are erased. (identity.c) */
void identity_secret(void);

/* The debug strap: a challenge, or the response to it. (debug.c) */
void debug_unlock(void);

/* IDevID key from the device secret, which is forgotten. (identity.c) */
void identity_derive(void);

/* The provisioning strap: enrols, or answers the factory; never returns. (provision.c) */
void provision_enrol(void);
void provision_answer(void);

/* The record in retention that binds an update reset to the boot before it. (update.c) */
void update_read(void);
void update_bind(void);

/* CDI, key and certificate of the loader, and the record that is handed over. (loader_identity.c, certificate.c) */
void loader_keys(void);
void loader_certificate(void);
void handover_write(void);

/* Locks, makes main RAM executable, forgets, and jumps. (exec.c) */
void locks_close(void);
void exec_loader(void);

#endif
