/* A store that makes an interrupt pending is done once, and finishes before the interrupt is taken. */
#include "board.h"

static volatile uint32_t interrupts;
static volatile uint32_t seen;

void pendsv_handler(void) { interrupts++; }

static void uart_sent(void) {
    REG(0x4000500C) = 1;
    seen++;
}

void run(void) {
    /* Post-indexed: the address register must be written back although the interrupt follows at once. */
    uint32_t address = 0xE000ED04;
    for (int i = 0; i < 100; i++) {
        uint32_t before = address;
        __asm volatile("str %1, [%0], #4\n isb\n" : "+r"(address) : "r"(PENDSVSET) : "memory");
        if (address != before + 4) report("no write-back", address);
        address = before;
    }
    report("pendsv", interrupts);

    /* Several registers at once. */
    interrupts = 0;
    uint32_t low = 0x20004000;
    __asm volatile("mov r2, #1\n mov r3, #2\n stmia %0!, {r2, r3}\n str %1, [%2]\n mov %0, %0\n"
                   : "+r"(low) : "r"(PENDSVSET), "r"(0xE000ED04) : "r2", "r3", "memory");
    report("stm end", low);
    report("pendsv", interrupts);

    /* UART1 interrupts on each character it has sent: one store, one interrupt. */
    irq_handlers[3] = uart_sent;
    REG(0x40005010) = 16;
    REG(0x40005008) = 1 | 4;
    NVIC_ISER = 1u << 3;
    for (int i = 0; i < 50; i++) {
        REG(0x40005000) = 'x';
        BARRIER();
    }
    report("sent", seen);

    /* Inside an IT block. */
    interrupts = 0;
    uint32_t done = 0;
    for (int i = 0; i < 20; i++) {
        __asm volatile("movs r3, #1\n ittt ne\n strne %1, [%2]\n addne %0, %0, #1\n addne %0, %0, #1\n isb\n"
                       : "+r"(done) : "r"(PENDSVSET), "r"(0xE000ED04) : "r3", "cc", "memory");
    }
    report("it done", done);
    report("pendsv", interrupts);
}
