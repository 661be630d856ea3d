/* Goes through every reset: cold, warm and update by the port, then warm by the processor's own request. */
#include "support.h"

#define AIRCR WORD(0xE000ED0Cu)
#define SYSRESETREQ 0x05FA0004u /* Armv7-M B3.2.6 */
#define VISITS WORD(RETENTION)

uint32_t program(void)
{
    const uint32_t reason = SYSTEM_WORD(SYSTEMWORD_RESET_REASON);
    print(reason == RESETREASON_COLD     ? "cold"
          : reason == RESETREASON_WARM   ? "warm"
          : reason == RESETREASON_UPDATE ? "update"
                                         : "unknown");
    print_word(" reset, retention", VISITS);
    const uint32_t visit = VISITS++;
    if (visit == 0) {
        (void)ask(COMMAND_RESET, RESETREASON_WARM, 0, 0, 0, 0, 0);
    } else if (visit == 1) {
        (void)ask(COMMAND_RESET, RESETREASON_UPDATE, 0, 0, 0, 0, 0);
    } else if (visit == 2) {
        AIRCR = SYSRESETREQ;
    } else {
        return visit;
    }
    for (;;) {
    }
}
