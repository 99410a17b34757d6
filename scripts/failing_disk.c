/* A disk below one folder that fails, for processes that were started with this as LD_PRELOAD.

   The file that the environment variable FAILING_DISK names is shared by all of them: the number of
   the error (0: the disk is well), and the folder. EIO concerns all calls, ENOSPC those that need
   room, and others all changes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile struct { int number; char folder[PATH_MAX]; } *disk;

__attribute__((constructor)) static void begin(void) {
    const char *control = getenv("FAILING_DISK");
    int file = control ? open(control, O_RDONLY) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *disk, PROT_READ, MAP_SHARED, file, 0);
    disk = found == MAP_FAILED ? NULL : found;
}

enum { READS, WRITES, REMOVES };

/* Whether a path, below a folder or a file that is open, is on the failing disk. */
static int fails(int at, const char *path, int what) {
    if (!disk || !disk->number || (what == READS && disk->number != EIO)) return 0;
    if (what == REMOVES && disk->number == ENOSPC) return 0;
    char link[64], full[2 * PATH_MAX] = "";
    if (!path || path[0] != '/') {
        if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t size = readlink(link, full, PATH_MAX);
        full[size < 0 ? 0 : size] = 0;
    }
    if (path) snprintf(full + strlen(full), PATH_MAX, "/%s", path + (path[0] == '/'));
    size_t size = strlen((const char *)disk->folder);
    if (strncmp(full, (const char *)disk->folder, size) || (full[size] && full[size] != '/')) return 0;
    errno = disk->number;
    return 1;
}

#define WRAP(type, name, parameters, values, at, path, what)                 \
    type name parameters {                                                   \
        static type(*real) parameters;                                       \
        if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name);       \
        return fails(at, path, what) ? (type)-1 : real values;               \
    }
#define OPEN(name, parameters, values, at)                                   \
    int name parameters {                                                    \
        static int(*real) parameters;                                        \
        if (!real) real = (int(*) parameters)dlsym(RTLD_NEXT, #name);        \
        va_list more;                                                        \
        va_start(more, flags);                                               \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;            \
        va_end(more);                                                        \
        int what = flags & (O_WRONLY | O_RDWR) ? WRITES : READS;             \
        return fails(at, path, what) ? -1 : real values;                     \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
WRAP(ssize_t, read, (int file, void *to, size_t n), (file, to, n), file, NULL, READS)
WRAP(ssize_t, pread64, (int file, void *to, size_t n, off64_t from), (file, to, n, from), file, NULL, READS)
WRAP(ssize_t, write, (int file, const void *from, size_t n), (file, from, n), file, NULL, WRITES)
WRAP(ssize_t, pwrite64, (int file, const void *from, size_t n, off64_t to), (file, from, n, to), file, NULL, WRITES)
WRAP(ssize_t, writev, (int file, const struct iovec *from, int n), (file, from, n), file, NULL, WRITES)
WRAP(int, ftruncate64, (int file, off64_t size), (file, size), file, NULL, WRITES)
WRAP(int, fsync, (int file), (file), file, NULL, REMOVES)
WRAP(int, fdatasync, (int file), (file), file, NULL, REMOVES)
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, WRITES)
WRAP(int, unlink, (const char *path), (path), AT_FDCWD, path, REMOVES)
WRAP(int, unlinkat, (int at, const char *path, int flags), (at, path, flags), at, path, REMOVES)
WRAP(int, rmdir, (const char *path), (path), AT_FDCWD, path, REMOVES)
WRAP(int, rename, (const char *old, const char *new), (old, new), AT_FDCWD, new, REMOVES)
WRAP(int, link, (const char *old, const char *new), (old, new), AT_FDCWD, new, WRITES)
WRAP(int, stat64, (const char *path, struct stat64 *to), (path, to), AT_FDCWD, path, READS)
WRAP(int, lstat64, (const char *path, struct stat64 *to), (path, to), AT_FDCWD, path, READS)
