#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdint.h>

/* Writes a text and an error word in hexadecimal. */
void console_report(const char *text, uint32_t error);

#endif
