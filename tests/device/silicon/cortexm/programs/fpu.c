/* Floating-point registers survive interrupts; frames have the size that the code before them needs. */
#include "board.h"

uint32_t links[2];
static volatile uint32_t ticks;
static volatile float handler_sum = 1.0f;

__attribute__((naked)) void pendsv_handler(void) {
    __asm volatile("ldr r1, =links\n str lr, [r1]\n str sp, [r1, #4]\n bx lr\n .ltorg\n");
}

void systick_handler(void) {
    ticks++;
    float x = handler_sum;
    for (int i = 0; i < 8; i++) x = x * 1.0001f + 0.5f;
    handler_sum = x > 1000.0f ? 1.0f : x;
}

static uint32_t control(void) {
    uint32_t value;
    __asm volatile("mrs %0, control" : "=r"(value));
    return value;
}

static void pend(const char *name) {
    uint32_t before;
    __asm volatile("mov %0, sp" : "=r"(before));
    SCB_ICSR = PENDSVSET;
    BARRIER();
    print(name);
    report(" link", links[0]);
    report("  frame", (before - links[1]) & ~7u);
    report("  control", control());
}

static __attribute__((noinline)) uint32_t chew(uint32_t rounds) {
    float s = 0.0f, t = 1.0f;
    uint32_t bits;
    for (uint32_t i = 0; i < rounds; i++) {
        s += t * 0.25f;
        t = t * 1.001f - s * 0.0001f;
    }
    __asm volatile("vmov %0, %1" : "=r"(bits) : "t"(s));
    return bits;
}

void run(void) {
    report("control at start", control());
    report("fpccr", FPU_FPCCR & 0xC0000000);
    pend("before");
    __asm volatile("vmov s0, %0\n vmov s31, %0" ::"r"(0x40490FDB) : "s0", "s31");
    pend("after");
    __asm volatile("mrs r0, control\n bic r0, #4\n msr control, r0\n isb" ::: "r0", "memory");
    pend("cleared");

    uint32_t quiet = chew(20000);
    report("quiet", quiet);
    SYST_RVR = 997;
    SYST_CVR = 0;
    SYST_CSR = 7;
    uint32_t wrong = 0;
    do wrong |= chew(20000) ^ quiet;
    while (ticks < 50);
    SYST_CSR = 0;
    report("difference", wrong);

    /* All registers and FPSCR. */
    __asm volatile("vmsr fpscr, %0" ::"r"(0x00C00000));
    uint32_t sum = 0, status;
    static uint32_t values[32];
    for (uint32_t i = 0; i < 32; i++) values[i] = i * 0x01010101;
    __asm volatile("vldmia %0, {s0-s31}\n str %1, [%2]\n dsb\n isb\n vstmia %0, {s0-s31}"
                   : : "r"(values), "r"(PENDSVSET), "r"(0xE000ED04) : "memory");
    __asm volatile("vmrs %0, fpscr" : "=r"(status));
    for (uint32_t i = 0; i < 32; i++) sum += values[i] ^ (i * 0x01010101);
    report("registers", sum);
    report("fpscr", status);
}
