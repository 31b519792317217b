/* A disk whose every sync takes at least 2 ms, for LD_PRELOAD: the real sync, then the rest of the 2 ms.
   The benchmark compiles it and puts it under every side alike. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <time.h>

#define LEAST_NS 2000000L

typedef int sync_call(int);

static int slowly(const char *name, int fd) {
    struct timespec begun, now, rest;
    sync_call *real = (sync_call *)dlsym(RTLD_NEXT, name);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    int result = real(fd);
    int error = errno;
    clock_gettime(CLOCK_MONOTONIC, &now);
    rest.tv_sec = 0;
    rest.tv_nsec = LEAST_NS - ((now.tv_sec - begun.tv_sec) * 1000000000L + now.tv_nsec - begun.tv_nsec);
    if (rest.tv_nsec > 0) {
        while (nanosleep(&rest, &rest) == -1 && errno == EINTR) {
        }
    }
    errno = error;
    return result;
}

int fsync(int fd) {
    return slowly("fsync", fd);
}

int fdatasync(int fd) {
    return slowly("fdatasync", fd);
}
