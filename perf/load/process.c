#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

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

int64_t process_resident_bytes(pid_t pid)
{
    char path[64], line[256];
    int64_t kilobytes = -ENODATA;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Rss: %" SCNd64, &kilobytes) == 1)
            break;
    fclose(file);
    return kilobytes < 0 ? kilobytes : kilobytes * 1024;
}
