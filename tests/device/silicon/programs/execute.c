/* Code that was copied to main RAM runs once the gate is open. */
#include "support.h"

uint32_t program(void)
{
    WORD(RAM_BASE) = 0x47704770u; /* bx lr */
    print_status("wrong word", ask(COMMAND_EXEC_ENABLE, 1, 0, 0, 0, 0, 0));
    print_status("enable", ask(COMMAND_EXEC_ENABLE, EXEC_ENABLE_WORD, 0, 0, 0, 0, 0));
    print(can_call(RAM_BASE) ? "main RAM runs\n" : "main RAM does not run\n");
    (void)ask(COMMAND_LOCK, LOCK_EXEC, 0, 0, 0, 0, 0);
    print_status("enable when locked", ask(COMMAND_EXEC_ENABLE, EXEC_ENABLE_WORD, 0, 0, 0, 0, 0));
    return 0;
}
