/* An undefined instruction where no handler may run (Armv7-M B1.5.15). */
#include "support.h"

uint32_t program(void)
{
    print("locking up\n");
    __asm__ volatile("cpsid f\n udf #0");
    return 1;
}
