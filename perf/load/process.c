#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t thread_cpu_ns(pid_t pid, const char *thread)
{
    char path[64];
    int64_t ran_ns;
    snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", pid, thread);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? 0 : -errno; /* the thread has ended just now */
    int fields = fscanf(file, "%" SCNd64, &ran_ns);
    fclose(file);
    return fields == 1 ? ran_ns : 0; /* ended after the open: nothing to read */
}

int64_t process_cpu_ns(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    if (!threads)
        return -errno;
    int64_t sum = 0;
    for (struct dirent *thread; sum >= 0 && (thread = readdir(threads));) {
        if (thread->d_name[0] == '.')
            continue;
        int64_t ran_ns = thread_cpu_ns(pid, thread->d_name);
        sum = ran_ns < 0 ? ran_ns : sum + ran_ns;
    }
    closedir(threads);
    return sum;
}

/* A number of kilobytes from a file of /proc/PID, as bytes. */
static int64_t kilobytes_of(pid_t pid, const char *name, const char *key)
{
    char path[64], line[256];
    int64_t kilobytes = -ENODATA;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    while (kilobytes < 0 && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            kilobytes = strtoll(line + strlen(key), NULL, 10);
    fclose(file);
    return kilobytes < 0 ? kilobytes : kilobytes * 1024;
}

int64_t process_resident_bytes(pid_t pid)
{
    return kilobytes_of(pid, "smaps_rollup", "Rss:");
}

int64_t process_peak_bytes(pid_t pid)
{
    return kilobytes_of(pid, "status", "VmHWM:");
}

int process_forget_peak(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/clear_refs", pid);
    FILE *file = fopen(path, "we");
    if (!file)
        return -errno;
    bool written = fputs("5", file) >= 0;
    return fclose(file) == 0 && written ? 0 : -errno;
}
