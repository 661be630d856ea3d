/* System registers: reset values, and which bits can be written. */
#include "board.h"

static void bits(const char *name, uint32_t address) {
    uint32_t before = REG(address);
    print(name);
    print(" ");
    print_hex(before);
    REG(address) = ~0u;
    print(" ");
    print_hex(REG(address));
    REG(address) = 0;
    report("", REG(address));
    REG(address) = before;
}

void run(void) {
    report("cpuid", SCB_CPUID);
    report("ictr", REG(0xE000E004));
    report("icsr", SCB_ICSR);
    bits("vtor", 0xE000ED08);
    report("aircr", SCB_AIRCR);
    SCB_AIRCR = 0x700;
    report("aircr without key", SCB_AIRCR);
    SCB_AIRCR = 0x05FA0300;
    report("aircr", SCB_AIRCR);
    SCB_AIRCR = 0x05FA0000;
    bits("shcsr", 0xE000ED24);
    bits("mmfar", 0xE000ED34);
    bits("bfar", 0xE000ED38);
    bits("reload", 0xE000E014);
    bits("calibration", 0xE000E01C);
    bits("mpu number", 0xE000ED98);
    report("mpu type", REG(0xE000ED90));
    bits("fpcar", 0xE000EF38);
    bits("fpdscr", 0xE000EF3C);
    NVIC_ISER = ~0u;
    report("iser", NVIC_ISER);
    NVIC_ICER = 0xFFFF;
    report("icer", NVIC_ICER);
    NVIC_ICER = ~0u;
    NVIC_ISPR = 0xF0F0F0F0;
    report("ispr", NVIC_ISPR);
    report("pending", SCB_ICSR & 0x00400000);
    NVIC_ICPR = ~0u;
    report("icpr", NVIC_ICPR);
    for (uint32_t n = 0; n < 32; n++) NVIC_IPR(n) = (uint8_t)(n * 9);
    for (uint32_t n = 0; n < 32; n += 4) report("ipr", REG(0xE000E400 + n));
    for (uint32_t n = 4; n < 16; n++) SCB_SHPR(n) = (uint8_t)(n * 16);
    for (uint32_t n = 4; n < 16; n += 4) report("shpr", REG(0xE000ED14 + n));
    SCB_SHPR(15) = 0;
    for (uint32_t n = 0xD40; n < 0xD74; n += 4) report("id", REG(0xE000E000 + n));
    report("mvfr0", REG(0xE000EF40));
    report("mvfr1", REG(0xE000EF44));
    SYST_RVR = 1000;
    SYST_CVR = 5;
    report("current", SYST_CVR);
    SYST_CSR = 5;
    uint32_t status = 0;
    while (!(status & 1u << 16)) status = SYST_CSR;
    report("control", status);
    report("flag gone", SYST_CSR & 1u << 16 && SYST_CVR > 900);
    SYST_CSR = 0;
}
