/* Preemption, nesting, tail-chaining and grouping by priority; what ICSR and EXC_RETURN say meanwhile. */
#include "board.h"

static void note(const char *what, uint32_t line) {
    uint32_t link;
    __asm volatile("mrs %0, ipsr" : "=r"(link));
    print(what);
    print(" ");
    print_hex(line);
    report(" ipsr", link);
    report("  icsr", SCB_ICSR & 0xF000FFFF & ~(0x3u << 29));
}

static volatile uint32_t depth, deepest;

static void irq_nested(void) {
    uint32_t ipsr;
    __asm volatile("mrs %0, ipsr" : "=r"(ipsr));
    uint32_t line = (ipsr & 0x1ff) - 16;
    if (++depth > deepest) deepest = depth;
    note("enter", line);
    if (line < 24 + 5) {
        NVIC_ISPR = 1u << (line + 1);
        BARRIER();
    }
    note("leave", line);
    depth--;
}

static void clear_setup(void) {
    NVIC_ICER = ~0u;
    NVIC_ICPR = ~0u;
    depth = deepest = 0;
}

static void nested_by_priority(void) {
    print("each one higher than the one before\n");
    clear_setup();
    for (uint32_t i = 24; i < 30; i++) {
        irq_handlers[i] = irq_nested;
        NVIC_IPR(i) = (uint8_t)((31 - i) << 5);
    }
    NVIC_ISER = 0x3Fu << 24;
    NVIC_ISPR = 1u << 24;
    BARRIER();
    report("deepest", deepest);
}

static void chained(void) {
    print("each one lower than the one before\n");
    clear_setup();
    for (uint32_t i = 24; i < 30; i++) NVIC_IPR(i) = (uint8_t)((i - 23) << 5);
    NVIC_ISER = 0x3Fu << 24;
    NVIC_ISPR = 1u << 24;
    BARRIER();
    report("deepest", deepest);
}

static void grouped(void) {
    print("same group, other subpriority\n");
    clear_setup();
    SCB_AIRCR = 0x05FA0000u | 5u << 8; /* two bits of group priority */
    report("aircr", SCB_AIRCR & 0xFFFF);
    for (uint32_t i = 24; i < 30; i++) NVIC_IPR(i) = (uint8_t)(0x40 | (29 - i) << 3);
    NVIC_ISER = 0x3Fu << 24;
    NVIC_ISPR = 1u << 24;
    BARRIER();
    report("deepest", deepest);
    SCB_AIRCR = 0x05FA0000u;
}

static void all_at_once(void) {
    print("all pending at once: by priority, then by number\n");
    clear_setup();
    static const uint8_t priorities[] = {0x60, 0x20, 0x60, 0x40, 0x20, 0x80};
    for (uint32_t i = 0; i < 6; i++) NVIC_IPR(24 + i) = priorities[i];
    NVIC_ISER = 0x3Fu << 24;
    __asm volatile("cpsid i");
    NVIC_ISPR = 0x3Fu << 24;
    report("pending", SCB_ICSR >> 12 & 0x1FF);
    __asm volatile("cpsie i");
    BARRIER();
    report("deepest", deepest);
}

/* EXC_RETURN as the handler finds it. */
uint32_t links[2];
__attribute__((naked)) void pendsv_handler(void) {
    __asm volatile("ldr r1, =links\n str lr, [r1]\n bx lr\n .ltorg\n");
}
__attribute__((naked)) void svc_handler(void) {
    __asm volatile("ldr r1, =links\n str lr, [r1, #4]\n push {r4, lr}\n ldr r0, =0xE000ED04\n"
                   "mov r1, #0x10000000\n str r1, [r0]\n dsb\n isb\n pop {r4, pc}\n .ltorg\n");
}

static void links_by_mode(void) {
    static uint32_t process_stack[128];
    FPU_FPCCR = 0; /* basic frames only */
    SCB_SHPR(11) = 0x80;
    SCB_SHPR(14) = 0x40;
    __asm volatile("mrs r0, control\n bic r0, #4\n msr control, r0\n isb\n svc 0\n" ::: "r0", "memory");
    report("svc from msp", links[1]);
    report("pendsv in svc", links[0]);
    __asm volatile("msr psp, %0\n mov r0, #2\n msr control, r0\n isb\n svc 0\n mov r0, #0\n msr control, r0\n isb\n"
                   ::"r"(process_stack + 128) : "r0", "memory");
    report("svc from psp", links[1]);
    SCB_SHPR(14) = 0xC0;
    __asm volatile("svc 0\n isb" ::: "memory");
    report("pendsv behind svc", links[0]);
}

void nmi_handler(void) { note("nmi", 0); }

void run(void) {
    nested_by_priority();
    chained();
    grouped();
    all_at_once();
    links_by_mode();
    clear_setup();
    __asm volatile("cpsid f");
    SCB_ICSR = NMIPENDSET;
    BARRIER();
    __asm volatile("cpsie f");
    irq_handlers[31] = irq_nested;
    NVIC_ISER = 1u << 31;
    NVIC_STIR = 31;
    BARRIER();
}
