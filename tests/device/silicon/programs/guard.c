/* A check as it should not be: one comparison decides whether main RAM is entered. */
#include "support.h"

#define EXPECTED 0x600DC0DEu

uint32_t program(void)
{
    WORD(RAM_BASE) = 0x47704770u; /* bx lr */
    (void)ask(COMMAND_EXEC_ENABLE, EXEC_ENABLE_WORD, 0, 0, 0, 0, 0);
    if (WORD(RETENTION) != EXPECTED) {
        print("refused\n");
        return 1;
    }
    print("let in\n");
    (void)can_call(RAM_BASE);
    return 0;
}
