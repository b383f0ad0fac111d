/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a process, it counts the changes that the process makes to files, and
 * kills it with SIGKILL just before a chosen one. Syncs are counted, but not done: a
 * killed process leaves to the kernel what it wrote, and a test of a thousand deaths
 * must not wait for a disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int armed;
static long made, last;

/* Count from here on and die before change number `death`, never when it is < 0. */
void mortal_arm(long death) { armed = 1; made = 0; last = death; }

/* The number of changes since then. */
long mortal_count(void) { return made; }

static void step(void)
{
    if (!armed)
        return;
    if (made == last)
        kill(getpid(), SIGKILL);
    made++;
}

/* Pipes and sockets are no files of anybody. */
static void step_of(int fd)
{
    struct stat facts;
    if (armed && fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode))
        step();
}

#define CHANGE(type, name, parameters, arguments, count)                          \
    type name parameters                                                          \
    {                                                                             \
        static type (*real) parameters;                                           \
        if (!real)                                                                \
            real = (type (*) parameters)dlsym(RTLD_NEXT, #name);                  \
        count;                                                                    \
        return real arguments;                                                    \
    }

CHANGE(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), step_of(fd))
CHANGE(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o),
       step_of(fd))
CHANGE(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o),
       step_of(fd))
CHANGE(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), step_of(fd))
CHANGE(int, ftruncate, (int fd, off_t n), (fd, n), step())
CHANGE(int, ftruncate64, (int fd, off64_t n), (fd, n), step())
CHANGE(int, rename, (const char *a, const char *b), (a, b), step())
CHANGE(int, renameat, (int c, const char *a, int d, const char *b), (c, a, d, b),
       step())
CHANGE(int, link, (const char *a, const char *b), (a, b), step())
CHANGE(int, linkat, (int c, const char *a, int d, const char *b, int f),
       (c, a, d, b, f), step())
CHANGE(int, unlink, (const char *a), (a), step())
CHANGE(int, unlinkat, (int c, const char *a, int f), (c, a, f), step())
CHANGE(int, rmdir, (const char *a), (a), step())
CHANGE(int, mkdir, (const char *a, mode_t m), (a, m), step())
CHANGE(int, mkdirat, (int c, const char *a, mode_t m), (c, a, m), step())
CHANGE(int, symlink, (const char *a, const char *b), (a, b), step())
CHANGE(int, chmod, (const char *a, mode_t m), (a, m), step())
CHANGE(int, fsetxattr, (int fd, const char *k, const void *v, size_t n, int f),
       (fd, k, v, n, f), step())
CHANGE(int, setxattr, (const char *p, const char *k, const void *v, size_t n, int f),
       (p, k, v, n, f), step())

int fsync(int fd) { (void)fd; step(); return 0; }
int fdatasync(int fd) { (void)fd; step(); return 0; }

/* Opening changes something when it may make or empty a file. */
#define OPENING(name)                                                             \
    int name(const char *path, int flags, ...)                                    \
    {                                                                             \
        static int (*real)(const char *, int, ...);                               \
        va_list rest;                                                             \
        mode_t mode;                                                              \
        if (!real)                                                                \
            real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);      \
        va_start(rest, flags);                                                    \
        mode = va_arg(rest, mode_t);                                              \
        va_end(rest);                                                             \
        if (flags & (O_CREAT | O_TRUNC))                                          \
            step();                                                               \
        return real(path, flags, mode);                                           \
    }

#define OPENING_AT(name)                                                          \
    int name(int folder, const char *path, int flags, ...)                        \
    {                                                                             \
        static int (*real)(int, const char *, int, ...);                          \
        va_list rest;                                                             \
        mode_t mode;                                                              \
        if (!real)                                                                \
            real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        va_start(rest, flags);                                                    \
        mode = va_arg(rest, mode_t);                                              \
        va_end(rest);                                                             \
        if (flags & (O_CREAT | O_TRUNC))                                          \
            step();                                                               \
        return real(folder, path, flags, mode);                                   \
    }

OPENING(open)
OPENING(open64)
OPENING_AT(openat)
OPENING_AT(openat64)
