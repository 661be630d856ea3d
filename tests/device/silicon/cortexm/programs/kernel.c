/* A preemptive kernel with unprivileged tasks, each in MPU regions of its own. It is written with the idioms of
 * the FreeRTOS ports for Cortex-M4F with MPU: SVC starts the first task, PendSV switches (process stack, test of
 * EXC_RETURN for floating point, CONTROL saved), critical sections by BASEPRI, the MPU set anew for each task,
 * SVC raises privilege for kernel calls, and an MPU fault kills the task that made it. */
#include "board.h"

enum { TASKS = 4, STACK_WORDS = 256, MAX_SYSCALL_PRIORITY = 0x80, SYSCALL_YIELD = 1, SYSCALL_PRINT, SYSCALL_DONE };

typedef struct {
    uint32_t *top;          /* must stand first: the switch uses it */
    uint32_t regions[4][2]; /* RBAR, RASR: stack, code, console, own data */
    bool ready;
    const char *name;
    const char *end;
    uint32_t log[4], logged, fault_status, fault_address;
} task_t;

static task_t tasks[TASKS];
task_t *current;
static uint32_t stacks[TASKS][STACK_WORDS] __attribute__((aligned(STACK_WORDS * 4)));
static uint32_t data[TASKS][64] __attribute__((aligned(256)));
static volatile uint32_t ticks, switches, nested, fast, slow;

/* Kernel */

static void enter_critical(void) {
    __asm volatile("msr basepri, %0\n isb\n dsb" ::"r"(MAX_SYSCALL_PRIORITY) : "memory");
    nested++;
}

static void leave_critical(void) {
    if (--nested == 0) __asm volatile("msr basepri, %0" ::"r"(0) : "memory");
}

static void set_regions(const task_t *task) {
    for (uint32_t i = 0; i < 4; i++) {
        MPU_RBAR = task->regions[i][0] | 0x10 | i;
        MPU_RASR = task->regions[i][1];
    }
    BARRIER();
}

__attribute__((used)) void pick_next(void) {
    uint32_t at = (uint32_t)(current - tasks);
    for (uint32_t i = 0; i < TASKS; i++) {
        at = (at + 1) % TASKS;
        if (tasks[at].ready) break;
    }
    if (current != &tasks[at]) switches++;
    current = &tasks[at];
    set_regions(current);
}

__attribute__((naked)) void pendsv_handler(void) {
    __asm volatile(
        "mrs r0, psp\n"
        "isb\n"
        "ldr r3, =current\n"
        "ldr r2, [r3]\n"
        "tst r14, #0x10\n"
        "it eq\n"
        "vstmdbeq r0!, {s16-s31}\n"
        "mrs r1, control\n"
        "stmdb r0!, {r1, r4-r11, r14}\n"
        "str r0, [r2]\n"
        "stmdb sp!, {r0, r3}\n"
        "mov r0, #0x80\n"
        "msr basepri, r0\n"
        "dsb\n"
        "isb\n"
        "bl pick_next\n"
        "mov r0, #0\n"
        "msr basepri, r0\n"
        "ldmia sp!, {r0, r3}\n"
        "ldr r1, [r3]\n"
        "ldr r0, [r1]\n"
        "ldmia r0!, {r3, r4-r11, r14}\n"
        "msr control, r3\n"
        "tst r14, #0x10\n"
        "it eq\n"
        "vldmiaeq r0!, {s16-s31}\n"
        "msr psp, r0\n"
        "bx r14\n"
        ".ltorg\n");
}

static void start_first(void) {
    set_regions(current);
    MPU_CTRL = 5;
    __asm volatile(
        "dsb\n isb\n"
        "ldr r0, [%0]\n"
        "ldmia r0!, {r3, r4-r11, r14}\n"
        "msr control, r3\n"
        "msr psp, r0\n"
        "mov r0, #0\n"
        "msr basepri, r0\n"
        "bx r14\n" ::"r"(current) : "memory");
}

void systick_handler(void) {
    enter_critical();
    ticks++;
    SCB_ICSR = PENDSVSET;
    leave_critical();
}

static void print_logs(void) {
    for (uint32_t i = 0; i < TASKS; i++) {
        print(tasks[i].name);
        print(tasks[i].end);
        for (uint32_t j = 0; j < tasks[i].logged; j++) report("  says", tasks[i].log[j]);
        if (tasks[i].fault_status) report("  status", tasks[i].fault_status);
        if (tasks[i].fault_status) report("  address", tasks[i].fault_address);
    }
    print(fast > 30 && slow > 30 ? "many interrupts\n" : "too few interrupts\n");
}

static void task_ended(const char *how) {
    enter_critical();
    current->ready = false;
    current->end = how;
    bool any = false;
    for (uint32_t i = 0; i < TASKS; i++) any |= tasks[i].ready;
    if (!any) {
        print_logs();
        print(switches > 30 ? "many switches\n" : "too few switches\n");
        finish(0);
    }
    SCB_ICSR = PENDSVSET;
    leave_critical();
}

__attribute__((used)) void handle_svc(uint32_t *frame) {
    uint8_t number = ((uint8_t *)frame[6])[-2];
    if (number == 0) start_first();
    if (number == SYSCALL_YIELD) SCB_ICSR = PENDSVSET;
    if (number == SYSCALL_PRINT) current->log[current->logged++ & 3] = frame[0];
    if (number == SYSCALL_DONE) task_ended(" done\n");
}

__attribute__((naked)) void svc_handler(void) {
    __asm volatile("tst lr, #4\n ite eq\n mrseq r0, msp\n mrsne r0, psp\n b handle_svc\n");
}

__attribute__((used)) void killed_by_mpu(void) {
    uint32_t status = SCB_CFSR;
    current->fault_status = status;
    current->fault_address = SCB_MMFAR;
    SCB_CFSR = status;
    task_ended(" killed\n");
}

__attribute__((naked)) void mem_manage_handler(void) { __asm volatile("push {r4, lr}\n bl killed_by_mpu\n pop {r4, pc}"); }

/* An interrupt above the kernel's critical sections, and one below. */
static void fast_interrupt(void) {
    REG(0x4000000C) = 1;
    fast++;
}
static void slow_interrupt(void) {
    REG(0x4000100C) = 1;
    enter_critical();
    slow++;
    leave_critical();
}

/* Tasks: unprivileged, no globals but their own */

#define SYSCALL(number, argument)                                                            \
    do {                                                                                     \
        register uint32_t r0 __asm("r0") = (argument);                                       \
        __asm volatile("svc %1" : "+r"(r0) : "i"(number) : "r1", "r2", "r3", "r12", "memory"); \
    } while (0)

static uint32_t float_work(uint32_t *own, uint32_t seed, uint32_t rounds) {
    float x = (float)seed, sum = 0.0f;
    for (uint32_t i = 0; i < rounds; i++) {
        x = x * 0.999f + 1.25f;
        sum += x * 0.5f;
        own[i & 31] += i ^ seed;
    }
    uint32_t bits, mixed = 0;
    __asm volatile("vmov %0, %1" : "=r"(bits) : "t"(sum));
    for (uint32_t i = 0; i < 32; i++) mixed = mixed * 31 + own[i];
    return bits ^ mixed;
}

static void float_task(uint32_t *own, uint32_t seed) {
    for (uint32_t i = 0; i < 3; i++) SYSCALL(SYSCALL_PRINT, float_work(own, seed + i, 40000));
    SYSCALL(SYSCALL_DONE, 0);
    for (;;) {}
}

static void yield_task(uint32_t *own, uint32_t seed) {
    for (uint32_t i = 0; i < 40; i++) {
        own[0] += seed;
        SYSCALL(SYSCALL_YIELD, 0);
    }
    SYSCALL(SYSCALL_PRINT, own[0]);
    uint32_t control;
    __asm volatile("cpsid i\n mrs %0, control" : "=r"(control));
    SYSCALL(SYSCALL_PRINT, control & 3);
    SYSCALL(SYSCALL_DONE, 0);
    for (;;) {}
}

static void bad_task(uint32_t *own, uint32_t seed) {
    own[0] = seed;
    SYSCALL(SYSCALL_YIELD, 0);
    data[0][3] = 0xBAD; /* another task's */
    SYSCALL(SYSCALL_PRINT, 0xBAD);
    SYSCALL(SYSCALL_DONE, 0);
    for (;;) {}
}

static void make_task(uint32_t number, const char *name, void (*body)(uint32_t *, uint32_t), uint32_t seed) {
    task_t *task = &tasks[number];
    uint32_t *top = stacks[number] + STACK_WORDS;
    *--top = 1u << 24;
    *--top = (uint32_t)body & ~1u;
    *--top = 0;
    for (int i = 0; i < 3; i++) *--top = 0;
    *--top = seed;
    *--top = (uint32_t)data[number];
    *--top = 0xFFFFFFFD;
    for (int i = 0; i < 8; i++) *--top = 0;
    *--top = 3; /* CONTROL: unprivileged, process stack */
    task->top = top;
    task->ready = true;
    task->name = name;
    task->regions[0][0] = (uint32_t)stacks[number];
    task->regions[0][1] = 9u << 1 | 1 | 3u << 24 | 1u << 28;
    task->regions[1][0] = 0;
    task->regions[1][1] = 21u << 1 | 1 | 6u << 24;
    task->regions[2][0] = 0;
    task->regions[2][1] = 0;
    task->regions[3][0] = (uint32_t)data[number];
    task->regions[3][1] = 7u << 1 | 1 | 3u << 24 | 1u << 28;
}

void run(void) {
    __asm volatile("msr basepri, %0" ::"r"(MAX_SYSCALL_PRIORITY)); /* until the first task runs */
    SCB_SHCSR = 1u << 16;
    SCB_SHPR(14) = SCB_SHPR(15) = 0xFF;
    SCB_SHPR(11) = 0;
    make_task(0, "float a", float_task, 3);
    make_task(1, "yielder", yield_task, 5);
    make_task(2, "float b", float_task, 7);
    make_task(3, "intruder", bad_task, 11);
    current = &tasks[0];
    irq_handlers[8] = fast_interrupt;
    irq_handlers[9] = slow_interrupt;
    NVIC_IPR(8) = 0x40;
    NVIC_IPR(9) = 0xA0;
    NVIC_ISER = 3u << 8;
    REG(0x40000008) = 7001;
    REG(0x40000000) = 9;
    REG(0x40001008) = 11003;
    REG(0x40001000) = 9;
    SYST_RVR = 5000 - 1;
    SYST_CVR = 0;
    SYST_CSR = 7;
    __asm volatile("cpsie i\n svc 0" ::: "memory");
    print("unreachable\n");
}
