#include "board.h"

#include <stddef.h>

extern uint32_t stack_top[], data_load[], data_start[], data_end[], bss_start[], bss_end[];

handler_t irq_handlers[32];

void print(const char *text) {
    while (*text) UART_DATA = (uint8_t)*text++;
}

void print_hex(uint32_t value) {
    print("0x");
    for (int shift = 28; shift >= 0; shift -= 4) UART_DATA = (uint8_t)"0123456789abcdef"[value >> shift & 15];
}

void report(const char *name, uint32_t value) {
    print(name);
    print(" ");
    print_hex(value);
    print("\n");
}

_Noreturn void finish(uint32_t status) {
    /* SYS_EXIT_EXTENDED, ADP_Stopped_ApplicationExit */
    volatile uint32_t block[2] = {0x20026, status};
    register uint32_t operation __asm("r0") = 0x20;
    register volatile uint32_t *argument __asm("r1") = block;
    __asm volatile("bkpt 0xab" ::"r"(operation), "r"(argument) : "memory");
    for (;;) {}
}

static void unexpected(void) {
    uint32_t ipsr;
    __asm volatile("mrs %0, ipsr" : "=r"(ipsr));
    report("unexpected exception", ipsr);
    report("cfsr", SCB_CFSR);
    report("hfsr", SCB_HFSR);
    finish(99);
}

#define OPTIONAL(name) __attribute__((weak)) void name(void) { unexpected(); }
OPTIONAL(nmi_handler)
OPTIONAL(hard_fault_handler)
OPTIONAL(mem_manage_handler)
OPTIONAL(bus_fault_handler)
OPTIONAL(usage_fault_handler)
OPTIONAL(svc_handler)
OPTIONAL(debug_handler)
OPTIONAL(pendsv_handler)
OPTIONAL(systick_handler)

static void irq_dispatch(void) {
    uint32_t ipsr;
    __asm volatile("mrs %0, ipsr" : "=r"(ipsr));
    handler_t handler = irq_handlers[(ipsr & 0x1ff) - 16];
    if (handler) handler();
    else unexpected();
}

static void reset_handler(void) {
    for (volatile uint32_t *from = data_load, *to = data_start; to < data_end;) *to++ = *from++;
    for (volatile uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
    SCB_CPACR |= 0xFu << 20;
    BARRIER();
    UART_BAUDDIV = 16;
    UART_CTRL = 1;
    run();
    finish(0);
}

#define FOUR irq_dispatch, irq_dispatch, irq_dispatch, irq_dispatch
__attribute__((section(".vectors"), used)) static const handler_t vectors[48] = {
    (handler_t)stack_top, reset_handler,  nmi_handler, hard_fault_handler, mem_manage_handler,
    bus_fault_handler,    usage_fault_handler, unexpected, unexpected, unexpected, unexpected,
    svc_handler,          debug_handler,  unexpected,  pendsv_handler,     systick_handler,
    FOUR, FOUR, FOUR, FOUR, FOUR, FOUR, FOUR, FOUR,
};

/* The compiler calls these for copies and fills of its own. */
void *memcpy(void *to, const void *from, size_t count) {
    for (size_t i = 0; i < count; i++) ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}

void *memset(void *to, int value, size_t count) {
    for (size_t i = 0; i < count; i++) ((volatile uint8_t *)to)[i] = (uint8_t)value;
    return to;
}
