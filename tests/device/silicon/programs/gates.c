/* What the windows allow. QEMU cannot enforce any of it. */
#include "support.h"

static void show(const char *name, uint32_t address)
{
    print(name);
    print(can_read(address) ? " r" : " -");
    print(can_write(address) ? "w\n" : "-\n");
}

uint32_t program(void)
{
    show("rom", ROM_BASE + 0x8000u);
    show("sram", SRAM_BASE + 0x1000u);
    show("flash", FLASH_BASE);
    show("main ram", RAM_BASE + 0x100u);
    show("fuse shadow", FUSE_SHADOW);
    show("mailbox", MAILBOX + MAILBOX_DATA);
    show("system", SYSTEM);
    show("retention", RETENTION);
    show("between", FLASH_BASE + FLASH_SIZE);
    show("behind rom", ROM_BASE + ROM_SIZE);
    show("behind sram", SRAM_BASE + SRAM_SIZE);
    show("puf rows", PUF_ROWS);
    (void)ask(COMMAND_PUF_CLEAR, 0, 0, 0, 0, 0, 0);
    show("puf rows, cleared", PUF_ROWS);
    WORD(RAM_BASE) = 0x47704770u; /* bx lr */
    WORD(SRAM_BASE + 0x1000u) = 0x47704770u;
    print(can_call(SRAM_BASE + 0x1000u) ? "sram runs\n" : "sram does not run\n");
    print(can_call(RAM_BASE) ? "main RAM runs\n" : "main RAM does not run\n");
    (void)ask(COMMAND_EXEC_ENABLE, EXEC_ENABLE_WORD, 0, 0, 0, 0, 0);
    print(can_call(RAM_BASE) ? "main RAM runs\n" : "main RAM does not run\n");
    return 0;
}
