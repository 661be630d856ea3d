#include "support.h"

uint32_t program(void)
{
    print("refusing\n");
    (void)ask(COMMAND_FAIL, WORD(RETENTION) == 0 ? 0xE0010203u : 0xE0010204u, 0, 0, 0, 0, 0);
    for (;;) {
    }
}
