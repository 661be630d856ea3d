/* Vector table and start of a program in the loader's place. */
#include "probe.h"

void probe_reset(void);
void probe_fault(void);

extern uint32_t probe_stack[];
extern uint32_t probe_bss[];
extern uint32_t probe_bss_end[];

#define SCB_VTOR 0xE000ED08u /* Armv7-M B3.2.5 */

void probe_reset(void) {
  for (volatile uint32_t *word = probe_bss; word != probe_bss_end; word++) *word = 0;
  *word_at(SCB_VTOR) = LOADER_CODE;
  probe_main();
  for (;;) port_call(CMD_STOP, 1u, 0, 0, 0, 0);
}

/* Steps over the four octets of the load that faulted (`read_carefully`). */
__attribute__((naked)) void probe_fault(void) {
  __asm__ volatile(
      "mrs r0, msp\n\t"
      "ldr r1, [r0, #24]\n\t"
      "adds r1, #4\n\t"
      "str r1, [r0, #24]\n\t"
      "bx lr\n\t");
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    probe_stack, (void *)probe_reset, (void *)probe_fault, (void *)probe_fault,
    (void *)probe_fault, (void *)probe_fault, (void *)probe_fault};
