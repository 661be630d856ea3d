/* An IT block of four, then where it went. */
#include "support.h"

uint32_t program(void)
{
    uint32_t result;
    __asm__ volatile("movs r0, #0\n"
                     "cmp r0, #0\n"
                     ".globl it_block\n"
                     "itett eq\n"
                     "addeq r0, #1\n"
                     "addne r0, #16\n"
                     "addeq.w r0, r0, #2\n"
                     "addeq r0, #4\n"
                     "mov %0, r0"
                     : "=r"(result)
                     :
                     : "r0", "cc");
    return result;
}
