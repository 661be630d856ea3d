#include "support.h"

#define BLOCK 0x30000u
#define WORDS 8u

uint32_t program(void)
{
    for (uint32_t index = 0; index < WORDS; index++) {
        WORD(RAM_BASE + 4u * index) = 0x01020304u * (index + 1u);
    }
    print_status("erase", ask(COMMAND_FLASH_ERASE, BLOCK, 0, 0, 0, 0, 0));
    print_word("  wear", RESULT(0));
    print_octets("erased", FLASH_BASE + BLOCK, 4u * WORDS);
    print_status("program", ask(COMMAND_FLASH_PROGRAM, BLOCK, RAM_BASE, 4u * WORDS, 0, 0, 0));
    print_octets("programmed", FLASH_BASE + BLOCK, 4u * WORDS + 4u);
    print_status("program again", ask(COMMAND_FLASH_PROGRAM, BLOCK, RAM_BASE, 4u * WORDS, 0, 0, 0));
    print_status("erase again", ask(COMMAND_FLASH_ERASE, BLOCK, 0, 0, 0, 0, 0));
    print_octets("erased", FLASH_BASE + BLOCK, 4u * WORDS);
    print_status("wear", ask(COMMAND_FLASH_WEAR, BLOCK, 0, 0, 0, 0, 0));
    print_word("  wear", RESULT(0));
    print_status("behind the end", ask(COMMAND_FLASH_ERASE, FLASH_SIZE, 0, 0, 0, 0, 0));
    return 0;
}
