/* From one stack to another, without a system call.
 *
 * A place at which code waits to go on is a stack pointer: below it lies what the ABI wants to be kept. Three ways, of
 * which the build takes one:
 *
 *   switch_x86_64.S     System V: rbx, rbp, r12 to r15, and the modes of SSE and x87
 *   switch_aarch64.S    AAPCS64: x19 to x30, d8 to d15, and the mode of floating point
 *   switch_ucontext.c   anywhere else, by <ucontext.h>: portable, but each switch is a system call (it sets the signal
 *                       mask)
 *
 * Why our own 20 instructions: makecontext and swapcontext cost a system call each way, more than what a line costs
 * otherwise; longjmp between stacks is refused by a fortified C library; and the libraries that switch well bring a C++
 * runtime (Boost.Context) or a scheduler of their own (libdill, State Threads, GNU Pth), whose place is taken here by
 * the shard's loop. */
#ifndef RONDO_CORE_SWITCH_H
#define RONDO_CORE_SWITCH_H

/* Go on at *place, and let *place be where the caller goes on. */
void switch_stacks(void **place);

/* A place at which `begin(argument)` begins, on the empty stack below `top`. It must never return. The modes of
 * floating point are the caller's. */
void *switch_prepare(void *top, void (*begin)(void *argument), void *argument);

#endif
