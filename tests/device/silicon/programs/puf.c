/* The rows hold a readout until they are cleared; then they are gone. */
#include "support.h"

static uint32_t ones(void)
{
    uint32_t count = 0;
    for (uint32_t offset = 0; offset < PUF_ROWS_SIZE; offset += 4) {
        for (uint32_t word = WORD(PUF_ROWS + offset); word != 0; word &= word - 1u) {
            count++;
        }
    }
    return count;
}

uint32_t program(void)
{
    print_octets("readout", PUF_ROWS, 16);
    print_word("ones", ones());
    print_status("clear", ask(COMMAND_PUF_CLEAR, 0, 0, 0, 0, 0, 0));
    print_status("enrol", ask(COMMAND_PUF_ENROL, RAM_BASE, 0, 0, 0, 0, 0));
    return 0;
}
