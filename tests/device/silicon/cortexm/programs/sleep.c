/* WFI, WFE, and what wakes them. */
#include "board.h"

static volatile uint32_t ticks, timer_ticks;
void systick_handler(void) {
    ticks++;
    if (ticks == 25) SYST_CSR = 0;
}
static void timer_handler(void) {
    REG(0x4000000C) = 1;
    timer_ticks++;
}

void run(void) {
    SYST_RVR = 25000 - 1;
    SYST_CVR = 0;
    SYST_CSR = 7;
    while (ticks < 5) __asm volatile("wfi");
    print("five ticks\n");

    /* Masked by PRIMASK, an interrupt still wakes, and is taken when unmasked. */
    __asm volatile("cpsid i\n wfi" ::: "memory");
    report("masked", ticks);
    report("pending", SCB_ICSR & PENDSTSET);
    __asm volatile("cpsie i\n isb" ::: "memory");
    report("unmasked", ticks);

    while (ticks < 10) __asm volatile("wfe");
    __asm volatile("yield\n sev\n wfe");
    print("ten ticks\n");

    irq_handlers[8] = timer_handler;
    NVIC_ISER = 1u << 8;
    REG(0x40000008) = 50000;
    REG(0x40000000) = 9;
    while (timer_ticks < 3) __asm volatile("wfi");
    REG(0x40000000) = 0;
    print("three timer ticks\n");
    while (ticks < 25) __asm volatile("wfi");
    print("done\n");
}
