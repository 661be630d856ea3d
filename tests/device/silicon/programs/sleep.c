#include "support.h"

uint32_t program(void)
{
    print("sleeping\n");
    for (;;) {
        __asm__ volatile("wfi");
    }
}
