/* A blank chip at wafer test: the first bits of the chip id, then what may not be blown yet. */
#include "support.h"

static void show(const char *name, uint32_t word)
{
    print_status(name, ask(COMMAND_OTP_READ, word, 0, 0, 0, 0, 0));
    print_word("  sensed", RESULT(0));
    print_word("  doubtful", RESULT(1));
    print_word("  shadow", WORD(FUSE_SHADOW + 4u * word));
}

uint32_t program(void)
{
    show("before", CHIP_ID);
    print_status("blow", ask(COMMAND_OTP_BLOW, CHIP_ID, 0x80010003u, 0, 0, 0, 0));
    show("after", CHIP_ID);
    print_status("blow more", ask(COMMAND_OTP_BLOW, CHIP_ID, 0x00000030u, 0, 0, 0, 0));
    show("after", CHIP_ID);
    print_status("no such word", ask(COMMAND_OTP_BLOW, FUSE_WORDS, 1, 0, 0, 0, 0));
    print_status("skip to prod", ask(COMMAND_OTP_BLOW, LIFE_CYCLE_A + 2, 0xCA4CD45Eu, 0, 0, 0, 0));
    (void)ask(COMMAND_LOCK, LOCK_FUSES_FACTORY, 0, 0, 0, 0, 0);
    print_status("blow when locked", ask(COMMAND_OTP_BLOW, CHIP_ID + 1, 1, 0, 0, 0, 0));
    return 0;
}
