/* Registers of the board's peripherals: reset values, what can be written, interrupts, identification. */
#include "board.h"

#define TIMER 0x40000000
#define DUAL 0x40002000
#define WATCHDOG 0x40008000

static volatile uint32_t timer_count, dual_count, nmis;

static void timer_interrupt(void) {
    REG(TIMER + 0xC) = 1;
    timer_count++;
}
static void dual_interrupt(void) {
    REG(DUAL + 0x08) &= ~0x80u; /* on QEMU it would fire again while this prints */
    REG(DUAL + 0x28) &= ~0x80u;
    dual_count++;
    report("dual raw", REG(DUAL + 0x10) | REG(DUAL + 0x30) << 4);
    report("dual masked", REG(DUAL + 0x14) | REG(DUAL + 0x34) << 4);
    REG(DUAL + 0x0C) = 1;
    REG(DUAL + 0x2C) = 1;
}
void nmi_handler(void) {
    REG(WATCHDOG) = 0xFFFFFFFF; /* QEMU's counter runs whether it is enabled or not */
    nmis++;
    report("nmi, raw", REG(WATCHDOG + 0x10));
    report("masked", REG(WATCHDOG + 0x14));
    REG(WATCHDOG + 0x0C) = 1;
    report("cleared", REG(WATCHDOG + 0x10));
    REG(WATCHDOG + 0x08) = 0;
}

static void identify(const char *name, uint32_t base) {
    print(name);
    for (uint32_t at = 0xFD0; at < 0x1000; at += 4) {
        print(" ");
        print_hex(REG(base + at));
    }
    print("\n");
}

static void timers(void) {
    print("timer\n");
    for (uint32_t at = 0; at < 16; at += 4) report("reset", REG(TIMER + at));
    REG(TIMER + 8) = 1000;
    report("reload", REG(TIMER + 8));
    REG(TIMER) = 0xFF;
    report("control", REG(TIMER));
    REG(TIMER) = 0;
    irq_handlers[8] = timer_interrupt;
    NVIC_ISER = 1u << 8;
    REG(TIMER) = 9;
    while (timer_count < 3) {}
    REG(TIMER) = 0;
    REG(TIMER + 0xC) = 1;
    BARRIER();
    timer_count = 0;
    REG(TIMER) = 1;
    for (volatile uint32_t i = 0; i < 20000; i++) {}
    report("no interrupt", timer_count);
    report("in range", REG(TIMER + 4) <= 1000);
    REG(TIMER) = 0;
    uint32_t stopped = REG(TIMER + 4);
    for (volatile uint32_t i = 0; i < 1000; i++) {}
    report("stopped", REG(TIMER + 4) - stopped);
    REG(TIMER + 4) = 77;
    report("value set", REG(TIMER + 4));
}

static void dual_timer(void) {
    print("dual timer\n");
    for (uint32_t half = 0; half < 0x40; half += 0x20)
        for (uint32_t at = 0; at < 0x1C; at += 4) report("reset", REG(DUAL + half + at));
    irq_handlers[10] = dual_interrupt;
    NVIC_ISER = 1u << 10;
    REG(DUAL) = 2000;
    REG(DUAL + 8) = 0xE2; /* periodic, 32 bits, interrupt */
    while (dual_count < 1) {}
    REG(DUAL + 0x20) = 300;
    REG(DUAL + 0x28) = 0xA7; /* one shot, divided by 16 */
    while (dual_count < 2) {}
    report("control", REG(DUAL + 0x28));
    report("background", REG(DUAL + 0x18));
}

static void watchdog(void) {
    print("watchdog\n");
    for (uint32_t at = 0; at < 0x18; at += 4)
        if (at != 4) report("reset", REG(WATCHDOG + at));
    report("lock", REG(WATCHDOG + 0xC00));
    REG(WATCHDOG + 0xC00) = 1;
    report("locked", REG(WATCHDOG + 0xC00));
    REG(WATCHDOG) = 1234;
    report("ignored", REG(WATCHDOG));
    REG(WATCHDOG + 0xC00) = 0x1ACCE551;
    report("unlocked", REG(WATCHDOG + 0xC00));
    REG(WATCHDOG) = 500000; /* long enough for a host that is busy: on QEMU each expiry is another NMI */
    report("load", REG(WATCHDOG));
    REG(WATCHDOG + 8) = 1;
    while (nmis < 1) {}
    report("control", REG(WATCHDOG + 8));
}

static void uarts(void) {
    static const uint32_t bases[] = {0x40004000, 0x40005000, 0x40006000, 0x40007000, 0x40009000};
    print("uarts\n");
    for (int i = 1; i < 5; i++) {
        for (uint32_t at = 4; at <= 0x10; at += 4) report("reset", REG(bases[i] + at));
        REG(bases[i] + 0x10) = 0xFFFFFFFF;
        report("divider", REG(bases[i] + 0x10));
        REG(bases[i] + 0x10) = 16;
        REG(bases[i] + 0x08) = 0xFF;
        report("control", REG(bases[i] + 0x08));
        REG(bases[i] + 0x08) = 0;
        REG(bases[i]) = 'a';
        report("full", REG(bases[i] + 4));
        REG(bases[i]) = 'b';
        report("overrun", REG(bases[i] + 4));
        REG(bases[i] + 4) = 4;
        report("cleared", REG(bases[i] + 4));
        report("interrupts", REG(bases[i] + 0xC));
    }
}

static void absent(void) {
    print("unimplemented\n");
    static const uint32_t places[] = {0x40003000, 0x40010000, 0x40013FFC, 0x4001F000, 0x4002B000, 0x40100000, 0x00900000, 0x20900000};
    for (int i = 0; i < 8; i++) {
        REG(places[i]) = 0x12345678;
        report("reads", REG(places[i]));
    }
    print("fpga\n");
    REG(0x40028000) = 3;
    report("leds", REG(0x40028000));
    report("scc id", REG(0x4002FFFC));
    report("scc aid", REG(0x4002FFF8));
    print("mirrors\n");
    REG(0x20040000) = 0xCAFE;
    report("ssram", REG(0x20440000));
    REG(0x01004000) = 0xBEEF;
    report("block ram", REG(0x0100C000));
    report("code", REG(0x00400004) == REG(4));
    print("bit-band\n");
    REG(0x22000000 + 0x40000 * 32 + 4 * 4) = 1;
    report("set", REG(0x20040000));
    report("bit", REG(0x22000000 + 0x40000 * 32 + 7 * 4));
    REG(0x42000000 + 0x28000 * 32 + 1 * 4) = 0;
    report("led", REG(0x40028000));
}

void run(void) {
    timers();
    dual_timer();
    watchdog();
    uarts();
    absent();
    identify("timer", 0x40000000);
    identify("dual timer", 0x40002000);
    identify("uart", 0x40004000);
    identify("watchdog", 0x40008000);
}
