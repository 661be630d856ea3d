#include "support.h"

uint32_t program(void)
{
    print("hello from the chip\n");
    (void)ask(COMMAND_STAGE, STAGE_ROM, 0, 0, 0, 0, 0);
    (void)ask(COMMAND_STAGE, STAGE_LOADER, 0, 0, 0, 0, 0);
    print_status("no such command:", ask(0xFFFF, 0, 0, 0, 0, 0, 0));
    return 7;
}
