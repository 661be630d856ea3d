/* A block writes over code that has run: the new code runs, not what the engine remembers of the old. */
#include "support.h"

#define CODE (RAM_BASE + 0x1000u)
#define COPY (RAM_BASE + 0x2000u)
#define KEY (RAM_BASE + 0x3000u)

static uint32_t run(uint32_t address)
{
    register uint32_t r0 __asm__("r0") = 0;
    __asm__ volatile("dsb\n isb\n blx %1" : "+r"(r0) : "r"(address | 1u) : "r1", "r2", "r3", "r12", "lr", "memory");
    return r0;
}

uint32_t program(void)
{
    for (uint32_t index = 0; index < 16; index++) {
        WORD(KEY + 4u * index) = 0;
    }
    (void)ask(COMMAND_EXEC_ENABLE, EXEC_ENABLE_WORD, 0, 0, 0, 0, 0);
    WORD(CODE) = 0x47702001u; /* movs r0, #1; bx lr */
    print_word("first", run(CODE));
    WORD(CODE) = 0x47702002u; /* movs r0, #2; bx lr */
    print_word("stored over", run(CODE));
    WORD(COPY) = 0x47702003u;
    /* Encrypted in place and back: AES-CTR is its own inverse. */
    (void)ask(COMMAND_AES_CTR, KEY, 32, KEY, COPY, 4, COPY);
    (void)ask(COMMAND_AES_CTR, KEY, 32, KEY, COPY, 4, CODE);
    print_word("written by a block", run(CODE));
    return 0;
}
