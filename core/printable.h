/* SPDX-License-Identifier: Apache-2.0 */
/*
 * printable.h - text that may have come from a volume, for people's eyes: names and labels are any bytes at all.
 *
 * Nothing of it may reach a terminal or a log as a command or as a line of its own.  That is ASCII's control characters, and those of
 * 0x80 to 0x9f, alone (ISO 8859, and what is no UTF-8) or as UTF-8: 0x9b begins a command just as ESC [ does.
 */
#ifndef HOLDFAST_CORE_PRINTABLE_H
#define HOLDFAST_CORE_PRINTABLE_H

#include <stdio.h>

/* Control characters as \ooo. */
void printable_put(FILE *to, const char *text);

/* In place: each byte of them becomes '?'. */
void printable_make(char *text);

#endif
