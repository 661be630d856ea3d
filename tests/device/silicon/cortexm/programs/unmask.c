/* A pending interrupt is taken right behind the instruction that unmasks it: the handler looks at stacked R0. */
#include "board.h"

static volatile uint32_t stacked_r0, taken;

__attribute__((naked)) void pendsv_handler(void) {
    __asm volatile("ldr r1, [sp]\n ldr r2, =stacked\n str r1, [r2]\n ldr r1, [r2, #4]\n add r1, #1\n"
                   "str r1, [r2, #4]\n bx lr\n .ltorg\n");
}
uint32_t stacked[2];

#define TRY(name, mask, unmask, extra)                                                                   \
    do {                                                                                                 \
        stacked[0] = stacked[1] = 0;                                                                     \
        __asm volatile("mov r3, %1\n mov r0, #0\n" mask "\n str %0, [%2]\n dsb\n mov r0, #1\n mov r0, #2\n" \
                       "mov r0, #3\n" unmask "\n mov r0, #4\n mov r0, #5\n" extra                         \
                       : : "r"(PENDSVSET), "r"(0x40), "r"(0xE000ED04) : "r0", "r3", "memory");           \
        report(name, stacked[0]);                                                                        \
        if (stacked[1] != 1) report("taken", stacked[1]);                                                \
    } while (0)

static void thread_tests(void) {
    SCB_SHPR(14) = 0x80;
    TRY("cpsie i", "cpsid i", "cpsie i", "");
    TRY("msr primask", "cpsid i", "mov r0, #0\n msr primask, r0", "");
    TRY("cpsie f", "cpsid f", "cpsie f", "");
    TRY("msr faultmask", "cpsid f", "mov r0, #0\n msr faultmask, r0", "");
    TRY("msr basepri", "msr basepri, r3", "mov r0, #0\n msr basepri, r0", "");
    TRY("msr basepri lower", "msr basepri, r3", "mov r0, #0x90\n msr basepri, r0", "mov r0, #0\n msr basepri, r0");
    TRY("both", "cpsid i\n msr basepri, r3", "mov r0, #0\n msr basepri, r0\n mov r0, #7\n cpsie i", "");
    TRY("nothing masked", "nop", "nop", "");
    TRY("basepri not enough", "mov r3, #0xa0\n msr basepri, r3", "nop", "mov r0, #0\n msr basepri, r0");
}

/* A long masked stretch: the interrupt waits through all of it. */
static void long_mask(void) {
    stacked[0] = stacked[1] = 0;
    __asm volatile("cpsid i" ::: "memory");
    SCB_ICSR = PENDSVSET;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 2000; i++) sum += i ^ stacked[1];
    report("sum", sum);
    report("waits", stacked[1]);
    __asm volatile("cpsie i" ::: "memory");
    report("taken", stacked[1]);
}

/* Masked by priority registers, enable bits, and the level of a running handler. */
static volatile uint32_t order[8], count;
static void irq_low(void) { order[count++] = 2; }
static void irq_high(void) {
    order[count++] = 1;
    NVIC_ISPR = 1u << 30;
    BARRIER();
    order[count++] = 3;
    NVIC_IPR(30) = 0;
    BARRIER();
    order[count++] = 4;
}

void run(void) {
    thread_tests();
    long_mask();
    irq_handlers[29] = irq_high;
    irq_handlers[30] = irq_low;
    NVIC_IPR(29) = 0x40;
    NVIC_IPR(30) = 0x80;
    NVIC_ISPR = 1u << 29;
    BARRIER();
    report("disabled", count);
    NVIC_ISER = 1u << 29 | 1u << 30;
    BARRIER();
    for (uint32_t i = 0; i < count; i++) report("order", order[i]);
    report("pending", NVIC_ISPR);
    report("active", NVIC_IABR);
    (void)stacked_r0;
    (void)taken;
}
