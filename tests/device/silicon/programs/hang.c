#include "support.h"

uint32_t program(void)
{
    print("hanging\n");
    for (;;) {
    }
}
