#include "support.h"

uint32_t program(void)
{
    print(".");
    (void)ask(COMMAND_RESET, RESETREASON_WARM, 0, 0, 0, 0, 0);
    for (;;) {
    }
}
