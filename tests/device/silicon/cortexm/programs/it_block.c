/* Code full of IT blocks gives the same result however often it is interrupted, and with device loads inside. */
#include "board.h"

static volatile uint32_t ticks;
static uint32_t handler_sum;

void systick_handler(void) {
    uint32_t tick = ++ticks, odd;
    __asm volatile("tst %1, #1\n ite eq\n moveq %0, #3\n movne %0, #5\n" : "=r"(odd) : "r"(tick) : "cc");
    handler_sum = handler_sum * 3 + odd;
}

static __attribute__((noinline)) uint32_t mix(uint32_t rounds) {
    uint32_t a = 1, b = 2, c = 3, d = 0x12345678;
    for (uint32_t i = 0; i < rounds; i++) {
        __asm volatile(
            "cmp %0, %1\n itete lo\n addlo %0, %0, #7\n subhs %0, %0, #3\n eorlo %1, %1, %0\n addhs %1, %1, %2\n"
            "tst %0, #4\n itt ne\n addne %2, %2, %0\n rorne %3, %3, #3\n"
            "cmp %2, %3\n it hi\n eorhi %3, %3, %2\n"
            "adds %3, %3, %1\n itttt cs\n addcs %0, %0, #1\n addcs %1, %1, #2\n addcs %2, %2, #3\n eorcs %3, %3, #85\n"
            : "+r"(a), "+r"(b), "+r"(c), "+r"(d)::"cc");
    }
    return a ^ b ^ c ^ d;
}

/* A load and a store to a device inside an IT block: what follows must see all of it. */
static __attribute__((noinline)) void device_in_it(uint32_t rounds) {
    uint32_t sum = 0, calls = 0;
    for (uint32_t i = 0; i < rounds; i++) {
        uint32_t value = 0;
        __asm volatile(
            "movs r3, #1\n ittt ne\n ldrne %0, [%2]\n addne %1, %1, %0\n strne %1, [%2, #4]\n"
            : "+r"(value), "+r"(sum) : "r"(0x40004010) : "r3", "cc", "memory");
        calls++;
    }
    report("sum", sum);
    report("calls", calls);
}

void run(void) {
    device_in_it(50);
    uint32_t quiet = mix(20000);
    report("quiet", quiet);
    static const uint32_t periods[] = {37, 53, 101, 997};
    for (uint32_t i = 0; i < 4; i++) {
        ticks = 0;
        SYST_RVR = periods[i] * 8 - 1;
        SYST_CVR = 0;
        SYST_CSR = 7;
        uint32_t wrong = 0;
        do wrong |= mix(20000) ^ quiet;
        while (ticks < 50);
        SYST_CSR = 0;
        BARRIER();
        report("difference", wrong);
    }
}
