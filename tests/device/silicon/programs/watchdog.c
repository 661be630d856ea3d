#include "support.h"

#define WATCHDOG_LOAD WORD(WATCHDOG + 0x00u)
#define WATCHDOG_CONTROL WORD(WATCHDOG + 0x08u)
#define INTERRUPT_THEN_RESET 3u /* INTEN and RESEN, CMSDK (DDI 0479) 4.5 */

uint32_t program(void)
{
    if (SYSTEM_WORD(SYSTEMWORD_WATCHDOG_RESET) != 0) {
        print("back by the watchdog\n");
        return 3;
    }
    print("nobody serves the watchdog\n");
    WATCHDOG_LOAD = 20000;
    WATCHDOG_CONTROL = INTERRUPT_THEN_RESET;
    for (;;) {
    }
}
