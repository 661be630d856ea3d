#include "support.h"

#define SYS_WRITE0 0x04u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT 0x20026u /* ADP_Stopped_ApplicationExit */

static void host(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

uint32_t program(void)
{
    const uint32_t exit[2] = {APPLICATION_EXIT, 9};
    print("by the UART\n");
    host(SYS_WRITE0, "by the host\n");
    print("and back\n");
    host(SYS_EXIT_EXTENDED, exit);
    return 1;
}
