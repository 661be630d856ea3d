#include "handover.h"

#include "boot.h"
#include "fuses.h"

static uint32_t system_word(uint32_t index) { return *word_at(SYSTEM + 4u * index); }

static void write_image(volatile struct handover *record) {
  const struct image *image = &boot.second;
  record->image_counter = image->counter;
  record->key_slot = image->key_slot;
  record->key_type = image->key_type;
  record->loader_slot = boot.loader_slot;
  record->primary_refusal = boot.primary_refusal;
  record->header_size = image->header_size;
  record->payload_size = image->payload_size;
  copy_words((uint32_t)record->loader_version, HEADER_VERSION, 2u);
  copy_words((uint32_t)record->measurement, (uint32_t)image->digest, 8u);
  copy_words((uint32_t)record->signer, (uint32_t)image->signer, 8u);
}

void handover_write(void) {
  volatile struct handover *record = HANDOVER_RECORD;
  record->magic = HANDOVER_MAGIC;
  record->version = HANDOVER_VERSION;
  record->size = sizeof *record;
  record->life_cycle = life_cycle();
  record->debug = boot.debug;
  record->reset_reason = boot.reset_reason;
  record->boot_count = system_word(SYSTEM_BOOT_COUNT);
  record->watchdog_reset = system_word(SYSTEM_WATCHDOG_RESET);
  record->chip_revision = system_word(SYSTEM_REVISION);
  for (uint32_t counter = 0; counter != 3u; counter++) record->counters[counter] = counter_value(counter);
  copy_words((uint32_t)record->chip_id, FUSE_AT(CHIP_ID), CHIP_ID_WORDS);
  copy_words((uint32_t)record->product, FUSE_AT(PRODUCT), 2u);
  copy_words((uint32_t)record->idevid_public, (uint32_t)boot.idevid_public, 16u);
  write_image(record);
}
