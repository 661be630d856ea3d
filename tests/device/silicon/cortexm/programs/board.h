/* What every test program needs: registers, console, exit. Runs on mps2-an386, emulated by either engine. */
#ifndef BOARD_H
#define BOARD_H

#include <stdbool.h>
#include <stdint.h>

#define REG(address) (*(volatile uint32_t *)(address))
#define REG8(address) (*(volatile uint8_t *)(address))

#define UART_DATA REG(0x40004000)
#define UART_CTRL REG(0x40004008)
#define UART_BAUDDIV REG(0x40004010)

#define SYST_CSR REG(0xE000E010)
#define SYST_RVR REG(0xE000E014)
#define SYST_CVR REG(0xE000E018)
#define NVIC_ISER REG(0xE000E100)
#define NVIC_ICER REG(0xE000E180)
#define NVIC_ISPR REG(0xE000E200)
#define NVIC_ICPR REG(0xE000E280)
#define NVIC_IABR REG(0xE000E300)
#define NVIC_IPR(n) REG8(0xE000E400 + (n))
#define SCB_CPUID REG(0xE000ED00)
#define SCB_ICSR REG(0xE000ED04)
#define SCB_VTOR REG(0xE000ED08)
#define SCB_AIRCR REG(0xE000ED0C)
#define SCB_SCR REG(0xE000ED10)
#define SCB_CCR REG(0xE000ED14)
#define SCB_SHPR(exception) REG8(0xE000ED18 + (exception) - 4)
#define SCB_SHCSR REG(0xE000ED24)
#define SCB_CFSR REG(0xE000ED28)
#define SCB_HFSR REG(0xE000ED2C)
#define SCB_MMFAR REG(0xE000ED34)
#define SCB_BFAR REG(0xE000ED38)
#define SCB_CPACR REG(0xE000ED88)
#define MPU_CTRL REG(0xE000ED94)
#define MPU_RNR REG(0xE000ED98)
#define MPU_RBAR REG(0xE000ED9C)
#define MPU_RASR REG(0xE000EDA0)
#define NVIC_STIR REG(0xE000EF00)
#define FPU_FPCCR REG(0xE000EF34)

#define PENDSVSET (1u << 28)
#define PENDSTSET (1u << 26)
#define NMIPENDSET (1u << 31)

#define BARRIER() __asm volatile("dsb\n isb" ::: "memory")
#define CONCATENATE_(a, b) a##b

typedef void (*handler_t)(void);

void print(const char *text);
void print_hex(uint32_t value);
/* "name 0x00000000\n" */
void report(const char *name, uint32_t value);
_Noreturn void finish(uint32_t status);

/* The program. */
void run(void);

/* Handlers that a program may define; without one, the exception is printed and the program ends. */
void nmi_handler(void);
void hard_fault_handler(void);
void mem_manage_handler(void);
void bus_fault_handler(void);
void usage_fault_handler(void);
void svc_handler(void);
void debug_handler(void);
void pendsv_handler(void);
void systick_handler(void);
extern handler_t irq_handlers[32];

#endif
