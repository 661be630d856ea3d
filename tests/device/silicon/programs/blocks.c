/* Hashes, random numbers and what blocks may not reach. */
#include "support.h"

#define MESSAGE (RAM_BASE + 0x100u)
#define OUTPUT (RAM_BASE + 0x200u)

uint32_t program(void)
{
    WORD(MESSAGE) = 0x00636261u; /* "abc" */
    print_status("sha-256", ask(COMMAND_SHA256, MESSAGE, 3, OUTPUT, 0, 0, 0));
    print_octets("  abc", OUTPUT, 32);
    print_status("sha-512", ask(COMMAND_SHA512, MESSAGE, 3, OUTPUT, 0, 0, 0));
    print_octets("  abc", OUTPUT, 64);
    print_status("random", ask(COMMAND_TRNG_READ, OUTPUT, 32, 0, 0, 0, 0));
    print_octets("  octets", OUTPUT, 32);
    print_status("hash rom", ask(COMMAND_SHA256, ROM_BASE, 64, OUTPUT, 0, 0, 0));
    print_status("hash sram", ask(COMMAND_SHA256, SRAM_BASE, 64, OUTPUT, 0, 0, 0));
    print_status("hash puf rows", ask(COMMAND_SHA256, PUF_ROWS, 64, OUTPUT, 0, 0, 0));
    print_status("into fuse shadow", ask(COMMAND_SHA256, MESSAGE, 3, FUSE_SHADOW, 0, 0, 0));
    print_status("into flash", ask(COMMAND_SHA256, MESSAGE, 3, FLASH_BASE, 0, 0, 0));
    print_status("round the end", ask(COMMAND_SHA256, 0xFFFFFFF0u, 0x20, OUTPUT, 0, 0, 0));
    print_status("sign with nothing", ask(COMMAND_KEY_SIGN, KEYSLOT_IDEVID_KEY, OUTPUT, MESSAGE, 0, 0, 0));
    return 0;
}
