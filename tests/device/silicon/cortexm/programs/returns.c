/* Exception returns that must not work, and stacks that cannot be used. */
#include "board.h"

static uint32_t frames[64] __attribute__((aligned(8)));
static volatile uint32_t step;
static uint32_t main_stack;
uint32_t saved_link;

static void after(void);

/* Prints the fault, then throws everything away and goes on in `after`, in Thread mode. */
static void on_fault(uint32_t link) {
    uint32_t ipsr;
    __asm volatile("mrs %0, ipsr" : "=r"(ipsr));
    report("exception", ipsr);
    report("  cfsr", SCB_CFSR);
    report("  hfsr", SCB_HFSR);
    report("  link", link);
    report("  shcsr", SCB_SHCSR & 0xFFF);
    SCB_CFSR = ~0u;
    SCB_HFSR = ~0u;
    SCB_SHCSR = 7u << 16; /* nothing active but this */
    SCB_SHCSR |= ipsr == 3 ? 0 : 1u << (ipsr == 6 ? 3 : ipsr - 4);
    uint32_t *frame = (uint32_t *)(main_stack - 32);
    for (int i = 0; i < 8; i++) frame[i] = 0;
    frame[6] = (uint32_t)after & ~1u;
    frame[7] = 1u << 24;
    __asm volatile("msr msp, %0\n mov r0, #0\n msr control, r0\n bx %1" ::"r"(frame), "r"(0xFFFFFFF9) : "r0", "memory");
}

#define FAULT_ENTRY(handler)                                                            \
    __attribute__((naked)) void handler(void) { __asm volatile("mov r0, lr\n b %c0" ::"i"(on_fault)); }
FAULT_ENTRY(hard_fault_handler)
FAULT_ENTRY(mem_manage_handler)
FAULT_ENTRY(bus_fault_handler)
FAULT_ENTRY(usage_fault_handler)

static void leave_with(uint32_t link) { __asm volatile("bx %0" ::"r"(link) : "memory"); }

void svc_handler(void) {
    uint32_t *process = frames + 32;
    for (int i = 0; i < 8; i++) process[i] = 0;
    process[6] = (uint32_t)after & ~1u;
    process[7] = 1u << 24;
    __asm volatile("msr psp, %0" ::"r"(process));
    switch (step) {
        case 1: leave_with(0xFFFFFFF0); break;
        case 2: process[7] |= 3; leave_with(0xFFFFFFFD); break; /* the frame says HardFault */
        case 3: process[7] |= 11; leave_with(0xFFFFFFFD); break; /* to Thread mode, but the frame says SVC */
        case 4: __asm volatile("msr psp, %0" ::"r"(0x80000000)); leave_with(0xFFFFFFFD); break;
        case 5: process[7] = 0; leave_with(0xFFFFFFFD); break; /* without Thumb state */
        case 6: SCB_SHCSR &= ~(1u << 7); leave_with(0xFFFFFFFD); break; /* not active any more */
    }
}

static void after(void) {
    step++;
    report("step", step);
    if (step < 7) __asm volatile("svc 0" ::: "memory");
    if (step == 7) {
        print("stacking to nothing\n");
        __asm volatile("msr psp, %0\n mov r0, #2\n msr control, r0\n isb\n svc 0" ::"r"(0x80000040) : "r0", "memory");
    }
    if (step == 8) {
        print("stacking to a device\n");
        SCB_SHPR(5) = 0xE0; /* the bus fault comes behind the SVC it belongs to */
        SCB_SHPR(11) = 0x20;
        step = 20;
        __asm volatile("msr psp, %0\n mov r0, #2\n msr control, r0\n isb\n svc 0" ::"r"(0x88000040) : "r0", "memory");
    }
    finish(0);
}

void run(void) {
    __asm volatile("mrs %0, msp" : "=r"(main_stack));
    main_stack &= ~7u;
    SCB_SHCSR = 7u << 16;
    FPU_FPCCR = 0;
    after();
}
