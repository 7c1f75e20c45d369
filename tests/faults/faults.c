/* Preloaded into a program under test: lets the k-th write, sync or rename fail, or makes a small disk of one folder.
 *
 *   BIOPHONY_FAIL_CALL   k: the k-th call (from 1) of those below fails; the ones after it work again
 *   BIOPHONY_FAIL_ERRNO  with this error
 *   BIOPHONY_FAIL_UNDER  only calls on files below this folder count
 *   BIOPHONY_DISK_BYTES  instead: all writes below the folder together have room for so many bytes, then ENOSPC
 *   BIOPHONY_FAIL_COUNT  a file that gets the number of calls that counted when the process ends
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls, bytes;
static long fail_at, room = -1;
static int fail_with = EIO;
static char under[PATH_MAX];
static size_t under_size;

__attribute__((constructor)) static void begin(void) {
    const char* value = getenv("BIOPHONY_FAIL_CALL");
    if (value != NULL) fail_at = atol(value);
    if ((value = getenv("BIOPHONY_FAIL_ERRNO")) != NULL) fail_with = atoi(value);
    if ((value = getenv("BIOPHONY_DISK_BYTES")) != NULL) room = atol(value);
    if ((value = getenv("BIOPHONY_FAIL_UNDER")) != NULL) {
        strncpy(under, value, sizeof under - 1);
        under_size = strlen(under);
    }
}

/* The program leaves by _Exit, so the count is kept as it grows. */
static void keep_count(long count) {
    const char* file = getenv("BIOPHONY_FAIL_COUNT");
    if (file == NULL) return;
    static ssize_t (*real_pwrite)(int, const void*, size_t, off_t);
    if (real_pwrite == NULL) real_pwrite = (__typeof__(real_pwrite))dlsym(RTLD_NEXT, "pwrite");
    static int fd = -1;
    if (fd < 0) fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    char text[24];
    const int size = snprintf(text, sizeof text, "%020ld\n", count);
    if (real_pwrite(fd, text, (size_t)size, 0) < 0) return;
}

static int counts_path(const char* path) {
    return under_size == 0 || strncmp(path, under, under_size) == 0;
}

static int counts(int fd) {
    char link[40], path[PATH_MAX];
    if (fd <= 2) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return path[0] == '/' && counts_path(path);
}

/* Whether this call fails. */
static int fails(void) {
    const long now = atomic_fetch_add(&calls, 1) + 1;
    keep_count(now);
    if (now != fail_at) return 0;
    errno = fail_with;
    return 1;
}

/* How much of `size` there is room for. */
static size_t fits(size_t size) {
    if (room < 0) return size;
    const long before = atomic_fetch_add(&bytes, (long)size);
    if (before + (long)size <= room) return size;
    return before >= room ? 0 : (size_t)(room - before);
}

/* The function that this one stands in front of. */
#define REAL(name)                 \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRITE(name, arguments, forward)    \
    ssize_t name arguments {               \
        REAL(name);                        \
        if (counts(fd)) {                  \
            if (fails()) return -1;        \
            const size_t fit = fits(size); \
            if (fit == 0 && size > 0) {    \
                errno = ENOSPC;            \
                return -1;                 \
            }                              \
            size = fit;                    \
        }                                  \
        return real forward;               \
    }

WRITE(write, (int fd, const void* data, size_t size), (fd, data, size))
WRITE(pwrite, (int fd, const void* data, size_t size, off_t at), (fd, data, size, at))
WRITE(pwrite64, (int fd, const void* data, size_t size, off64_t at), (fd, data, size, at))

ssize_t writev(int fd, const struct iovec* parts, int count) {
    REAL(writev);
    if (counts(fd)) {
        size_t size = 0;
        for (int i = 0; i < count; ++i) size += parts[i].iov_len;
        if (fails()) return -1;
        if (fits(size) < size) {
            errno = ENOSPC;
            return -1;
        }
    }
    return real(fd, parts, count);
}

int fsync(int fd) {
    REAL(fsync);
    return counts(fd) && fails() ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return counts(fd) && fails() ? -1 : real(fd);
}
int syncfs(int fd) {
    REAL(syncfs);
    return counts(fd) && fails() ? -1 : real(fd);
}
int rename(const char* from, const char* to) {
    REAL(rename);
    return counts_path(to) && fails() ? -1 : real(from, to);
}
