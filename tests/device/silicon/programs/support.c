#include "support.h"

#define UART_DATA WORD(UART0 + 0x00u)
#define UART_STATE WORD(UART0 + 0x04u)
#define UART_CONTROL WORD(UART0 + 0x08u)
#define UART_DIVISOR WORD(UART0 + 0x10u)
#define UART_TX_FULL 1u
#define UART_TX_ENABLE 1u
#define CFSR WORD(0xE000ED28u)
#define HFSR WORD(0xE000ED2Cu)
#define FETCH_FAULTS 0x00000101u /* IACCVIOL and IBUSERR, Armv7-M B3.2.15 */

extern uint32_t bss_start[], bss_end[];

static volatile uint32_t forgiving, faulted;

void reset(void);
void fault(void);
void fault_taken(uint32_t *frame);
void interrupted(void);

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    (void *)(SRAM_BASE + SRAM_SIZE), (void *)reset, (void *)interrupted, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault,
};

void print(const char *text)
{
    while (*text != 0) {
        while (UART_STATE & UART_TX_FULL) {
        }
        UART_DATA = (uint32_t)*text++;
    }
}

static void print_hex(uint32_t value, int32_t digits)
{
    char text[2] = {0, 0};
    for (int32_t shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
        text[0] = "0123456789abcdef"[(value >> shift) & 15u];
        print(text);
    }
}

void print_word(const char *name, uint32_t value)
{
    print(name);
    print(" ");
    print_hex(value, 8);
    print("\n");
}

void print_octets(const char *name, uint32_t address, uint32_t length)
{
    print(name);
    print(" ");
    for (uint32_t index = 0; index < length; index++) {
        print_hex(*(volatile uint8_t *)(address + index), 2);
    }
    print("\n");
}

uint32_t ask(uint32_t command, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t a4, uint32_t a5)
{
    const uint32_t arguments[6] = {a0, a1, a2, a3, a4, a5};
    for (uint32_t index = 0; index < 6; index++) {
        WORD(MAILBOX + MAILBOX_ARGUMENTS + 4u * index) = arguments[index];
    }
    WORD(MAILBOX + MAILBOX_COMMAND) = command;
    WORD(MAILBOX + MAILBOX_STATUS) = STATUS_BUSY;
    WORD(DOORBELL) = 1;
    while (WORD(MAILBOX + MAILBOX_STATUS) == STATUS_BUSY) {
    }
    return WORD(MAILBOX + MAILBOX_STATUS);
}

void print_status(const char *name, uint32_t status)
{
    print(name);
    print(status == STATUS_OK             ? " ok\n"
          : status == STATUS_REFUSED      ? " refused\n"
          : status == STATUS_BAD_ARGUMENT ? " bad argument\n"
          : status == STATUS_FAILED       ? " failed\n"
                                          : " unknown\n");
}

uint32_t can_read(uint32_t address)
{
    forgiving = 1;
    faulted = 0;
    (void)WORD(address);
    __asm__ volatile("dsb" ::: "memory");
    forgiving = 0;
    return !faulted;
}

uint32_t can_write(uint32_t address)
{
    forgiving = 1;
    faulted = 0;
    WORD(address) = 0x5A5A5A5Au;
    __asm__ volatile("dsb" ::: "memory");
    forgiving = 0;
    return !faulted;
}

uint32_t can_call(uint32_t address)
{
    forgiving = 1;
    faulted = 0;
    __asm__ volatile("dsb\n isb\n blx %0" ::"r"(address | 1u) : "r0", "r1", "r2", "r3", "r12", "lr", "memory");
    forgiving = 0;
    return !faulted;
}

/* A forgiven fault goes on behind the instruction; one of a fetch goes back to the caller. */
void fault_taken(uint32_t *frame)
{
    if (!forgiving) {
        print_word("fault: cfsr", CFSR);
        print_word("fault: pc", frame[6]);
        (void)ask(COMMAND_STOP, 0xFA, 0, 0, 0, 0, 0);
        for (;;) {
        }
    }
    faulted = 1;
    if (CFSR & FETCH_FAULTS) {
        frame[6] = frame[5] & ~1u;
    } else {
        const uint16_t first = *(volatile uint16_t *)frame[6];
        frame[6] += (first >> 11) >= 0x1Du ? 4u : 2u;
    }
    CFSR = CFSR;
    HFSR = HFSR;
}

__attribute__((naked)) void fault(void)
{
    __asm__ volatile("mov r0, sp\n b fault_taken");
}

/* The watchdog's first expiry: whoever does not serve it is reset by the second. */
void interrupted(void)
{
    for (;;) {
    }
}

void reset(void)
{
    for (uint32_t *word = bss_start; word < bss_end; word++) {
        *word = 0;
    }
    UART_DIVISOR = 16;
    UART_CONTROL = UART_TX_ENABLE;
    (void)ask(COMMAND_STOP, program(), 0, 0, 0, 0, 0);
    for (;;) {
    }
}
