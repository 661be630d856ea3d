/* The MPU: sizes, subregions, order, background, attributes, and privilege; each access by its exact address. */
#include "board.h"

static volatile uint32_t faults;
static uint32_t fault_address, fault_status;

__attribute__((naked)) void mem_manage_handler(void) {
    __asm volatile("tst lr, #4\n ite eq\n mrseq r0, msp\n mrsne r0, psp\n push {r4, lr}\n bl note_fault\n pop {r4, pc}");
}
__attribute__((used)) void note_fault(uint32_t *frame) {
    faults++;
    fault_status = SCB_CFSR;
    fault_address = fault_status & 0x80 ? SCB_MMFAR : 0;
    SCB_CFSR = fault_status;
    if (fault_status & 1) {
        frame[6] = frame[5] & ~1u;
        frame[7] |= 1u << 24;
    } else {
        frame[6] += 4;
    }
}

static void set_region(uint32_t number, uint32_t base, uint32_t attributes) {
    MPU_RNR = number;
    MPU_RBAR = base;
    MPU_RASR = attributes;
    BARRIER();
}

#define SIZE(log2) (((log2) - 1) << 1 | 1)
#define AP(bits) ((uint32_t)(bits) << 24)
#define XN (1u << 28)

/* Four accesses at an address; each prints r, w or - and, if denied, the address that the fault names. */
static void probe(uint32_t address) {
    print_hex(address);
    uint32_t value, before = faults;
    __asm volatile("ldr.w %0, [%1]" : "=r"(value) : "r"(address) : "memory");
    print(faults == before ? " r" : " -");
    if (faults != before && fault_address != address) report(" at", fault_address);
    before = faults;
    __asm volatile("str.w %0, [%1]" : : "r"(value), "r"(address) : "memory");
    print(faults == before ? "w" : "-");
    before = faults;
    __asm volatile("ldrt %0, [%1]" : "=r"(value) : "r"(address) : "memory");
    print(faults == before ? " unprivileged r" : " unprivileged -");
    before = faults;
    __asm volatile("strt %0, [%1]" : : "r"(value), "r"(address) : "memory");
    print(faults == before ? "w" : "-");
    __asm volatile("ldrb.w %0, [%1, #3]" : "=r"(value) : "r"(address) : "memory");
    report(faults == before ? "" : " status", fault_status);
    fault_status = 0;
}

#define DATA 0x20020000u

static void sizes(void) {
    print("sizes\n");
    for (uint32_t log2 = 5; log2 <= 12; log2++) {
        set_region(1, DATA, SIZE(log2) | AP(5));
        report("size", 1u << log2);
        probe(DATA - 4);
        probe(DATA);
        probe(DATA + (1u << log2) - 4);
        probe(DATA + (1u << log2));
    }
    print("thirty-two octets anywhere\n");
    for (uint32_t offset = 0; offset < 0x800; offset += 0x160) {
        set_region(1, DATA + (offset & ~31u), SIZE(5) | AP(0));
        probe(DATA + (offset & ~31u) - 4);
        probe(DATA + (offset & ~31u) + 16);
        probe(DATA + (offset & ~31u) + 32);
    }
}

static void permissions(void) {
    print("permissions\n");
    for (uint32_t bits = 0; bits < 8; bits++) {
        if (bits == 4) continue;
        set_region(1, DATA, SIZE(10) | AP(bits));
        report("ap", bits);
        probe(DATA);
    }
}

static void subregions(void) {
    print("subregions\n");
    static const uint32_t sets[] = {0x01, 0x80, 0x55, 0xF0, 0xFE};
    for (uint32_t log2 = 8; log2 <= 14; log2 += 3) {
        for (uint32_t i = 0; i < 5; i++) {
            set_region(1, DATA, SIZE(log2) | AP(5) | sets[i] << 8);
            for (uint32_t part = 0; part < 8; part++) {
                uint32_t at = DATA + (part << (log2 - 3)), value = 0, before = faults;
                __asm volatile("str.w %0, [%1]" : : "r"(value), "r"(at) : "memory");
                __asm volatile("str.w %0, [%1]" : : "r"(value), "r"(at + (1u << (log2 - 3)) - 4) : "memory");
                UART_DATA = (uint8_t)('0' + faults - before);
            }
            print("\n");
        }
    }
}

static void overlaps(void) {
    print("the higher number wins, but for its subregions\n");
    set_region(1, DATA, SIZE(12) | AP(3));
    set_region(2, DATA + 0x400, SIZE(10) | AP(6));
    set_region(3, DATA + 0x400, SIZE(8) | AP(0) | 0x0Fu << 8);
    for (uint32_t at = DATA; at < DATA + 0xC00; at += 0x40) probe(at);
    set_region(3, 0, 0);
    set_region(2, 0, 0);
}

static void straddling(void) {
    print("accesses across an edge\n");
    set_region(1, DATA + 0x40, SIZE(5) | AP(0));
    uint32_t value = 0;
    for (uint32_t at = DATA + 0x3C; at <= DATA + 0x42; at++) {
        uint32_t before = faults;
        __asm volatile("ldr.w %0, [%1]" : "=r"(value) : "r"(at) : "memory");
        print_hex(at);
        report(faults == before ? " ok" : " denied at", fault_address);
        fault_address = 0;
    }
    uint32_t base = DATA + 0x38, before = faults;
    __asm volatile("ldmia.w %0, {r2, r3, r8, r9}" ::"r"(base) : "r2", "r3", "r8", "r9", "memory");
    report(faults == before ? "ldm ok" : "ldm denied at", fault_address);
    before = faults;
    __asm volatile("stmdb.w %0!, {r2, r3, r8, r9}" : "+r"(base) : : "memory");
    report(faults == before ? "stm ok, base" : "stm denied, base", base);
}

__attribute__((section(".data"))) static uint16_t code[8] = {0x4770, 0x4770};

static void execution(void) {
    print("execute never\n");
    uint32_t target = (uint32_t)code | 1;
    uint32_t before = faults;
    __asm volatile("blx %0" ::"r"(target) : "r0", "r1", "r2", "r3", "r12", "lr", "memory");
    report("plain", faults - before);
    for (uint32_t i = 0; i < 3; i++) {
        static const uint32_t attributes[] = {AP(3), AP(3) | XN, AP(0)};
        set_region(1, (uint32_t)code & ~31u, SIZE(5) | attributes[i]);
        before = faults;
        __asm volatile("blx %0" ::"r"(target) : "r0", "r1", "r2", "r3", "r12", "lr", "memory");
        report("denied", faults - before);
        report("  status", fault_status);
        fault_status = 0;
    }
    MPU_RNR = 1;
    MPU_RASR = 0;
}

void svc_handler(void) { __asm volatile("mrs r0, control\n bic r0, #1\n msr control, r0" ::: "r0", "memory"); }

static void unprivileged(void) {
    print("unprivileged: no background region\n");
    set_region(0, 0, SIZE(22) | AP(6));                     /* code */
    set_region(2, 0x20000000, SIZE(16) | AP(3) | XN);       /* data and stack */
    set_region(3, 0x40004000, SIZE(12) | AP(3) | XN);       /* console */
    set_region(1, DATA, SIZE(10) | AP(1) | XN);
    __asm volatile("mov r0, #1\n msr control, r0\n isb" ::: "r0", "memory");
    probe(DATA);
    probe(DATA + 0x400);
    probe(0x20008000);
    probe(0x21000000);
    __asm volatile("svc 0" ::: "memory");
    probe(DATA);
}

static void without_background(void) {
    print("privileged without background region\n");
    MPU_CTRL = 1;
    BARRIER();
    probe(DATA);
    probe(DATA + 0x400);
    probe(0x21000000);
    report("system space", MPU_CTRL);
}

void run(void) {
    SCB_SHCSR = 1u << 16;
    report("type", REG(0xE000ED90));
    MPU_CTRL = 5;
    BARRIER();
    sizes();
    permissions();
    subregions();
    overlaps();
    straddling();
    execution();
    unprivileged();
    without_background();
    MPU_CTRL = 0;
    BARRIER();
    probe(DATA);
    report("faults", faults);
}
