/* Prints without end. */
#include "support.h"

uint32_t program(void)
{
    for (;;) {
        print("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n");
    }
}
