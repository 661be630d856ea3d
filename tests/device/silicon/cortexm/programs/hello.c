/* The smallest program, and the semihosting calls that print. */
#include "board.h"

static void semihost(uint32_t operation_, const void *argument_) {
    register uint32_t operation __asm("r0") = operation_;
    register const void *argument __asm("r1") = argument_;
    __asm volatile("bkpt 0xab" : "+r"(operation) : "r"(argument) : "memory");
}

void run(void) {
    print("hello\n");
    report("cpuid", SCB_CPUID);
    semihost(0x04, "semihosting\n");
    semihost(0x03, "!");
    semihost(0x03, "\n");
    finish(7);
}
