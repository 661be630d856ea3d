/* Where QEMU 7.2 does otherwise than the architecture says (Armv7-M B1.5.8, B1.5.11). */
#include "board.h"

static volatile uint32_t hard_faults, ticks;

__attribute__((naked)) void hard_fault_handler(void) {
    __asm volatile("ldr r0, [sp, #24]\n add r0, #2\n str r0, [sp, #24]\n push {r4, lr}\n bl count_hard_fault\n pop {r4, pc}");
}
__attribute__((used)) void count_hard_fault(void) {
    hard_faults++;
    report("hfsr", SCB_HFSR);
    SCB_HFSR = ~0u;
}

void systick_handler(void) {
    if (++ticks == 20) {
        SCB_SCR = 0;
        SYST_CSR = 0;
    }
}

void usage_fault_handler(void) {
    report("cfsr", SCB_CFSR);
    finish(0);
}

__attribute__((naked)) void svc_handler(void) { __asm volatile("bx %0" ::"r"(0xFFFFFFF1)); }

void run(void) {
    print("a breakpoint without a debugger is a debug event\n");
    __asm volatile("bkpt #1" ::: "memory");
    report("hard faults", hard_faults);
    print("sleep on exit: Thread mode does not go on until a handler says so\n");
    SCB_SCR = 2;
    SYST_RVR = 25000 - 1;
    SYST_CVR = 0;
    SYST_CSR = 7;
    __asm volatile("wfi");
    report("slept through", ticks);
    print("a return to Handler mode with nothing else active is an invalid return\n");
    SCB_SHCSR = 7u << 16;
    __asm volatile("svc 0" ::: "memory");
}
