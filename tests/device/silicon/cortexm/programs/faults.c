/* Every kind of fault: which exception, which status, which address, and where the program can go on. */
#include "board.h"

static uint32_t expected_skip;
static const char *name;

/* Prints what the fault left, and goes on behind the faulting instruction. */
static void on_fault(uint32_t *frame, uint32_t link) {
    uint32_t ipsr;
    __asm volatile("mrs %0, ipsr" : "=r"(ipsr));
    print(name);
    report(": exception", ipsr);
    uint32_t status = SCB_CFSR;
    report("  cfsr", status);
    report("  hfsr", SCB_HFSR);
    if (status & 0x80) report("  mmfar", SCB_MMFAR);
    if (status & 0x8000) report("  bfar", SCB_BFAR);
    report("  link", link | 0x10);
    report("  it", frame[7] & 0x0600FC00);
    SCB_CFSR = status;
    SCB_HFSR = SCB_HFSR;
    if (expected_skip == 0xFFFFFFFF) {
        frame[6] = frame[5] & ~1u; /* a bad jump: go back to the caller */
        frame[7] |= 1u << 24;
    } else {
        frame[6] += expected_skip;
    }
    frame[7] &= ~0x0600FC00u;
}

#define FAULT_ENTRY(handler)                                                                   \
    __attribute__((naked)) void handler(void) {                                                \
        __asm volatile("tst lr, #4\n ite eq\n mrseq r0, msp\n mrsne r0, psp\n mov r1, lr\n"     \
                       "push {r4, lr}\n bl %c0\n pop {r4, pc}\n" ::"i"(on_fault));             \
    }
FAULT_ENTRY(hard_fault_handler)
FAULT_ENTRY(mem_manage_handler)
FAULT_ENTRY(bus_fault_handler)
FAULT_ENTRY(usage_fault_handler)

typedef void (*jump_t)(void);

static void each_fault(void) {
    uint32_t value = 0x1111;
    expected_skip = 2;
    name = "undefined";
    __asm volatile("udf #7" ::: "memory");
    expected_skip = 4;
    name = "undefined wide";
    __asm volatile("udf.w #7" ::: "memory");
    expected_skip = 2;
    name = "load from nothing";
    __asm volatile("ldr %0, [%1]" : "+l"(value) : "l"(0x80000000) : "memory");
    report("  kept", value);
    name = "store to nothing";
    __asm volatile("str %0, [%1]" : : "l"(value), "l"(0x90000004) : "memory");
    name = "load in an it block";
    expected_skip = 2;
    __asm volatile("movs r3, #1\n itt ne\n ldrne %0, [%1]\n movne %0, %0\n" : "+l"(value) : "l"(0x80000010) : "r3", "cc", "memory");
    report("  kept", value);
    name = "multiple load off the end";
    expected_skip = 4;
    __asm volatile("ldmia.w %0, {r2, r3, r8}" ::"r"(0x21FFFFFC) : "r2", "r3", "r8", "memory");
    name = "pre-indexed load from nothing";
    uint32_t pointer = 0x80000100;
    __asm volatile("ldr.w r2, [%0, #4]!" : "+r"(pointer) : : "r2", "memory");
    report("  pointer", pointer);
    expected_skip = 0xFFFFFFFF;
    name = "jump to nothing";
    ((jump_t)0x88000001)();
    name = "jump to a device";
    ((jump_t)0x40004001)();
    name = "jump to system space";
    ((jump_t)0xE0000001)();
    name = "jump without thumb bit";
    uint32_t even = (uint32_t)each_fault & ~1u;
    __asm volatile("mov r12, %0\n blx r12" ::"r"(even) : "r0", "r1", "r2", "r3", "r12", "lr", "memory");
}

static volatile bool in_svc, go_privileged;
void svc_handler(void) {
    if (go_privileged) {
        __asm volatile("mov r0, #0\n msr control, r0" ::: "r0", "memory");
        return;
    }
    in_svc = true;
    name = "svc in svc";
    expected_skip = 0;
    __asm volatile("svc 1\n" ::: "memory");
    name = "undefined in svc, usage fault too low";
    expected_skip = 2;
    __asm volatile("udf #1" ::: "memory");
    in_svc = false;
}

void run(void) {
    print("without enables: HardFault\n");
    each_fault();
    print("with enables\n");
    SCB_SHCSR = 7u << 16;
    each_fault();
    print("at the priority of the fault\n");
    SCB_SHPR(11) = 0x40;
    SCB_SHPR(4) = SCB_SHPR(5) = SCB_SHPR(6) = 0x40;
    __asm volatile("svc 0" ::: "memory");
    print("behind masks\n");
    expected_skip = 2;
    name = "primask";
    __asm volatile("cpsid i\n udf #2\n cpsie i" ::: "memory");
    name = "basepri";
    __asm volatile("mov r0, #0x40\n msr basepri, r0\n udf #2\n mov r0, #0\n msr basepri, r0" ::: "r0", "memory");
    name = "basepri below";
    __asm volatile("mov r0, #0x80\n msr basepri, r0\n udf #2\n mov r0, #0\n msr basepri, r0" ::: "r0", "memory");
    print("unprivileged\n");
    __asm volatile("mov r0, #1\n msr control, r0\n isb" ::: "r0", "memory");
    name = "load of a system register";
    uint32_t value = 5;
    __asm volatile("ldr %0, [%1]" : "+l"(value) : "l"(0xE000ED00) : "memory");
    report("  kept", value);
    name = "store to a system register";
    __asm volatile("str %0, [%1]" : : "l"(value), "l"(0xE000E100) : "memory");
    uint32_t primask = 9;
    __asm volatile("cpsid i\n mrs %0, primask" : "=r"(primask));
    report("primask", primask);
    name = "undefined";
    __asm volatile("udf #3" ::: "memory");
    go_privileged = true;
    __asm volatile("svc 0" ::: "memory");
}
