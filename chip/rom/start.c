/* First and last instructions. */
#include "fuses.h"

void rom_main(void);
void rom_reset(void);
void rom_fault(void);
void leave(uint32_t stack, uint32_t entry);

extern uint32_t rom_stack[];
extern uint32_t rom_bss[];
extern uint32_t rom_bss_end[];

/* Nothing in RAM is relied on: it is as the last program, or the power-up, left it. */
__attribute__((noreturn)) void rom_reset(void) {
  for (volatile uint32_t *word = rom_bss; word != rom_bss_end; word += 4) {
    word[0] = 0;
    word[1] = 0;
    word[2] = 0;
    word[3] = 0;
  }
  rom_main();
  END_BOOT(E_ROM_FAULT_DETECTED);
}

/* ROM-FLOW-2. The stack may be what broke, so it starts anew. */
__attribute__((naked, noreturn)) void rom_fault(void) {
  __asm__ volatile(
      "ldr r1, =rom_stack\n\t"
      "msr msp, r1\n\t"
      "ldr r0, =%c0\n\t"
      "bl fail\n\t"
      "bl fail\n\t"
      "1: b 1b\n\t"
      "b 1b\n\t" ::"i"(E_ROM_EXCEPTION));
}

/* Erases the ROM's RAM and every register, then enters the loader with its own stack. Erasing takes long enough for a bit to
 * flip in the two that stay, so they are compared with the image once more. */
__attribute__((naked, noreturn)) void leave(__attribute__((unused)) uint32_t stack, __attribute__((unused)) uint32_t entry) {
  __asm__ volatile(
      "msr msp, r0\n\t"
      "mov lr, r1\n\t"
      "ldr r0, =%c0\n\t"
      "ldr r1, =%c1\n\t"
      "movs r2, #0\n\t"
      "movs r3, #0\n\t"
      "movs r4, #0\n\t"
      "movs r5, #0\n\t"
      "movs r6, #0\n\t"
      "movs r7, #0\n\t"
      "mov r8, r2\n\t"
      "mov r9, r2\n\t"
      "1: stmia r0!, {r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
      "stmia r0!, {r2, r3, r4, r5, r6, r7, r8, r9}\n\t"
      "cmp r0, r1\n\t"
      "bne 1b\n\t"
      "cmp r0, r1\n\t"
      "bne rom_fault\n\t"
      "mov r10, r2\n\t"
      "mov r11, r2\n\t"
      "mov r12, r2\n\t"
      "ldr r0, =%c2\n\t"
      "ldrh r1, [r0, #8]\n\t"
      "adds r0, r0, r1\n\t"
      "ldr r1, [r0]\n\t"
      "mrs r3, msp\n\t"
      "cmp r1, r3\n\t"
      "bne rom_fault\n\t"
      "ldr r1, [r0, #4]\n\t"
      "cmp r1, lr\n\t"
      "bne rom_fault\n\t"
      "movs r0, #0\n\t"
      "movs r3, #0\n\t"
      "cmp r1, lr\n\t"
      "bne rom_fault\n\t"
      "movs r1, #0\n\t"
      "bx lr\n\t"
      "bx lr\n\t"
      "2: b 2b\n\t"
      "b 2b\n\t" ::"i"(ROM_RAM_BASE),
      "i"(ROM_RAM_BASE + ROM_RAM_SIZE),
      "i"(LOADER_RAM));
}

/* Armv7-M B1.5.3. Nothing in the ROM takes an interrupt on purpose. */
__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    rom_stack, (void *)rom_reset, (void *)rom_fault, (void *)rom_fault, (void *)rom_fault, (void *)rom_fault,
    (void *)rom_fault, (void *)rom_fault, (void *)rom_fault, (void *)rom_fault, (void *)rom_fault, (void *)rom_fault,
    (void *)rom_fault, (void *)rom_fault, (void *)rom_fault, (void *)rom_fault};
